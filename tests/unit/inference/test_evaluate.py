"""Where the scores of a model go."""

from dmlcsr.model import FaceParser
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.config.commands import EvaluateConfig
from pipelines.data.dataset import Manifest
from pipelines.inference import evaluate
from pipelines.models import model_directory
from tests.support.networks import card


def test_scores_of_two_data_sets_of_one_name_do_not_overwrite_each_other(tmp_path):
    described = card(taxonomy=CELEBAMASK_HQ)
    model_directory.write_model(f"{tmp_path}/run/model", FaceParser(described.architecture), described)
    outs = set()
    for place, digest in (("a", "1" * 64), ("b", "2" * 64)):
        manifest = Manifest(label_taxonomy=CELEBAMASK_HQ, splits={}, digest=digest)
        for tta in (False, True):
            config = EvaluateConfig(model=f"{tmp_path}/run", data=f"s3://{place}/lapa", tta=tta)
            outs.add(evaluate.default_out(config, manifest).removeprefix(f"{tmp_path}/run/evaluation/"))
    assert outs == {"lapa-11111111-test", "lapa-11111111-test-tta", "lapa-22222222-test", "lapa-22222222-test-tta"}
