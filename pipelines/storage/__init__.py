"""Storage by URI: local folders and s3://, with atomic commits.

Credentials and endpoint come from the standard AWS variables and profiles. This package never sets them.
"""

from pipelines.storage.files import (
    check_writable,
    create_bytes,
    delete,
    delete_folder,
    exists,
    find_bytes,
    find_json,
    is_empty,
    list_names,
    move_file,
    open_input,
    parse_json,
    read_bytes,
    read_json,
    scratch_file,
    write_bytes,
    write_json,
)
from pipelines.storage.listing import list_files, list_pages
from pipelines.storage.many import prefetched, read_many
from pipelines.storage.outages import doubt_endpoint
from pipelines.storage.uris import (
    absolute,
    arrow_filesystem,
    distinct_names,
    filesystem,
    is_damage,
    join,
    user_errors,
)

__all__ = [
    "absolute",
    "arrow_filesystem",
    "check_writable",
    "create_bytes",
    "delete",
    "delete_folder",
    "distinct_names",
    "doubt_endpoint",
    "exists",
    "filesystem",
    "find_bytes",
    "find_json",
    "is_damage",
    "is_empty",
    "join",
    "list_files",
    "list_names",
    "list_pages",
    "move_file",
    "open_input",
    "parse_json",
    "prefetched",
    "read_bytes",
    "read_json",
    "read_many",
    "scratch_file",
    "user_errors",
    "write_bytes",
    "write_json",
]
