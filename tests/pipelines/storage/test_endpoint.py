"""What a process says of an endpoint that cannot be reached, before the store has ever answered it."""

import datetime
import ipaddress
import logging
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import EndpointConnectionError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.head import free_port
from pipelines import storage
from pipelines.errors import UserError
from pipelines.storage import outages
from tests.support.commands import variables


class Handler(BaseHTTPRequestHandler):
    """Answers as a store does that has one object of 5 bytes under every name."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"there")

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Counts connections, also those that end before a request."""

    num_connections = 0

    def get_request(self):
        self.num_connections += 1
        return super().get_request()

    def handle_error(self, *_):
        pass


@contextmanager
def serving(port=0, tls=None):
    with Server(("127.0.0.1", port), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@contextmanager
def using(endpoint, **more):
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with variables({**keys, "AWS_ENDPOINT_URL": endpoint, **more}):
        yield


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """This process forgets that a store has ever answered it."""
    monkeypatch.setattr(outages, "_store", outages._Store())


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory):
    """A file with a certificate of 127.0.0.1 that no authority has signed, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    hosts = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(hosts, critical=False).add_extension(x509.BasicConstraints(True, None), critical=True)
    path = tmp_path_factory.mktemp("tls") / "store.pem"
    text = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, *text)
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def tls(self_signed):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed)
    with serving(tls=context) as server:
        yield server


@pytest.mark.parametrize("is_driver", [True, False])
def test_a_certificate_that_is_not_accepted_is_told_at_once(tls, is_driver, caplog):
    if is_driver:
        storage.doubt_endpoint()
    endpoint = f"https://127.0.0.1:{tls.server_port}"
    wanted = rf"^cannot read s3://faces/x: the certificate of {endpoint} is not accepted \(.*\); .*AWS_CA_BUNDLE$"
    with using(endpoint), pytest.raises(UserError, match=wanted):
        storage.read_bytes("s3://faces/x")
    assert tls.num_connections == 1 and not caplog.records


def test_the_certificate_of_a_private_authority_is_accepted_from_aws_ca_bundle(tls, self_signed):
    with using(f"https://127.0.0.1:{tls.server_port}", AWS_CA_BUNDLE=str(self_signed)):
        assert storage.read_bytes("s3://faces/x") == b"there"


def test_a_missing_bundle_of_certificates_is_named_and_no_object_is_blamed(tmp_path):
    missing = str(tmp_path / "authority.pem")
    with using("https://127.0.0.1", AWS_CA_BUNDLE=missing):
        with pytest.raises(UserError, match=f"there is no file AWS_CA_BUNDLE={missing} on "):
            storage.read_bytes("s3://faces/x")
        with pytest.raises(UserError, match="there is no file AWS_CA_BUNDLE"):
            storage.read_many(["s3://faces/x"])


def test_an_unknown_host_is_told_by_a_driver_without_waiting(caplog, monkeypatch):
    monkeypatch.setattr(outages, "FIRST_ANSWER_SECONDS", 0.0)  # where no name server answers, it is waited for
    storage.doubt_endpoint()
    wanted = r"^cannot list s3://faces/x: the host of https://nowhere.invalid is unknown \(.*\); check AWS_ENDPOINT_URL"
    with using("https://nowhere.invalid"), pytest.raises(UserError, match=wanted):
        storage.is_empty("s3://faces/x")


def test_a_driver_has_little_patience_with_a_port_on_which_nothing_listens(monkeypatch, caplog):
    monkeypatch.setattr(outages, "FIRST_ANSWER_SECONDS", 0.2)
    storage.doubt_endpoint()
    endpoint = f"http://127.0.0.1:{free_port()}"
    wanted = rf"^cannot read s3://faces/x: {endpoint} does not answer \(.*refused.*\); check AWS_ENDPOINT_URL"
    with using(endpoint), pytest.raises(UserError, match=wanted):
        storage.read_bytes("s3://faces/x")
    assert "trying again for 0 s" in caplog.text


@pytest.mark.parametrize("read", [storage.read_bytes, storage.exists, storage.is_empty, storage.open_input])
def test_a_port_that_speaks_another_protocol_is_tried_a_few_times(tls, read, monkeypatch):
    monkeypatch.setattr(outages, "FIRST_ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(outages, "FIRST_ANSWER_TRIES", 2)
    storage.doubt_endpoint()
    endpoint = f"http://127.0.0.1:{tls.server_port}"
    wanted = rf"^cannot [a-z ]+ s3://faces/x: {endpoint} does not answer \(.*\); check AWS_ENDPOINT_URL \(http or https"
    with using(endpoint), pytest.raises(UserError, match=wanted), storage.user_errors("open", "s3://faces/x"):
        read("s3://faces/x")
    assert tls.num_connections <= 2


class _Starts(logging.Handler):
    """Starts a server as soon as a warning says that nothing answers."""

    def __init__(self, port):
        super().__init__()
        self.started = threading.Event()
        self.serving = serving(port)

    def emit(self, record):
        if not self.started.is_set():
            self.started.set()
            self.serving.__enter__()


def test_a_worker_that_starts_during_an_outage_waits_for_its_end(monkeypatch):
    monkeypatch.setattr(outages, "FIRST_ANSWER_SECONDS", 0.0)
    port = free_port()
    starts = _Starts(port)
    outages.logger.addHandler(starts)
    try:
        with using(f"http://127.0.0.1:{port}"):
            assert storage.read_bytes("s3://faces/x") == b"there"
        assert starts.started.is_set()
    finally:
        outages.logger.removeHandler(starts)
        starts.serving.__exit__(None, None, None)


def test_after_the_first_answer_a_driver_is_as_patient_as_a_worker(monkeypatch):
    monkeypatch.setattr(outages, "FIRST_ANSWER_SECONDS", 0.0)
    storage.doubt_endpoint()
    refused = EndpointConnectionError(endpoint_url="http://127.0.0.1")
    assert not outages.is_retryable(refused)
    with serving() as server, using(f"http://127.0.0.1:{server.server_port}"):
        storage.read_bytes("s3://faces/x")
    assert outages.is_retryable(refused)
