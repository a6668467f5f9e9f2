import numpy as np
import pytest
from PIL import Image

from dmlcsr import load_model, parse
from dmlcsr.image_files import BadSampleError
from dmlcsr.model import FaceParser
from dmlcsr.weights import save_model
from tests.support.networks import card


def test_a_loaded_model_averages_over_views_where_it_is_told_to(tmp_path):
    save_model(tmp_path / "model", FaceParser(card().architecture).eval(), card())
    assert [load_model(tmp_path, tta=tta).tta for tta in (False, True)] == [False, True]


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", FaceParser(card().architecture).eval(), card())
    return load_model(tmp_path)


def test_a_photo_that_predict_would_list_is_refused_with_the_same_reason(model, tmp_path):
    Image.new("CMYK", (20, 20)).save(tmp_path / "print.jpg")
    with pytest.raises(BadSampleError, match=r"print\.jpg cannot be read as an image") as refused:
        parse(model, tmp_path / "print.jpg")
    assert refused.value.reason == "color_mode"


def test_a_cut_out_is_parsed_on_white(model, tmp_path):
    image = Image.new("RGBA", (40, 30), (255, 0, 255, 0))
    image.paste((200, 150, 100, 255), (10, 10, 20, 20))
    image.save(tmp_path / "cut-out.png")
    on_white = np.full((30, 40, 3), 255, np.uint8)
    on_white[10:20, 10:20] = (200, 150, 100)
    np.testing.assert_array_equal(parse(model, tmp_path / "cut-out.png"), parse(model, on_white))
