from dmlcsr import load_model
from dmlcsr.model import FaceParser
from dmlcsr.weights import save_model
from tests.support.networks import card


def test_a_loaded_model_averages_over_views_where_it_is_told_to(tmp_path):
    save_model(tmp_path / "model", FaceParser(card().architecture).eval(), card())
    assert [load_model(tmp_path, tta=tta).tta for tta in (False, True)] == [False, True]
