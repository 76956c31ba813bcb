"""``examples/static_unet.py --quick``: what it promises, and that its sets share nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import octavo.quantization as tq

EXAMPLES = Path(__file__).parents[2] / "examples"
_OF_EXAMPLES = ("shared", "static_unet", "static_unet_parts")
_INT8 = ("eager", "FX", "one call")
_QUICK_WIDTH = 16


@pytest.fixture(scope="module")
def run(run_example: Callable[..., Any]) -> Any:
    return run_example("static_unet", "--quick")


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """The example's module."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import static_unet

        yield static_unet
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in [name for name in sys.modules if name.split(".")[0] in _OF_EXAMPLES]:
            del sys.modules[name]


def _scores(run: Any) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in run.table("accuracy")}


def test_the_float_network_finds_coins_it_has_never_seen(run: Any) -> None:
    # No coins at all, and coins everywhere, have less than 0.5.
    float_row = _scores(run)["float"]
    assert float_row["mean IoU"] > 0.55
    assert float_row["mean IoU, photograph"] > 0.7


@pytest.mark.parametrize("way", _INT8)
def test_int8_is_within_a_hundredth_of_float(run: Any, way: str) -> None:
    scores = _scores(run)
    assert abs(scores[way]["mean IoU"] - scores["float"]["mean IoU"]) < 0.01
    assert 0 < scores[way]["pixels unlike float, %"] < 2


def test_every_model_has_its_times(run: Any) -> None:
    rows = run.table("time of a call")
    for row in rows:
        for way in ("float", "float, channels last", *_INT8):
            assert row[f"{way}, ms"] > 0
        fastest = min(row["float, ms"], row["float, channels last, ms"])
        assert row["eager against float"] == pytest.approx(fastest / row["eager, ms"])


def test_the_workload_is_what_the_tables_say(run: Any) -> None:
    workload, scores = run.results["workload"], _scores(run)
    (row,) = (
        r for r in run.table("time of a call") if workload["settings"].startswith(r["images"])
    )
    assert workload["float_ms"] == min(row["float, ms"], row["float, channels last, ms"])
    assert workload["int8_ms"] == row["eager, ms"]
    assert workload["int8_score"] == scores["eager"]["mean IoU"]
    assert workload["float_score"] == scores["float"]["mean IoU"]
    if "torch.ao" in scores:
        assert workload["torch_ao_score"] == scores["torch.ao"]["mean IoU"]
        assert workload["torch_ao_ms"] == row["torch.ao, ms"]


def test_int8_weights_take_little_more_than_a_quarter(run: Any) -> None:
    workload = run.results["workload"]
    assert workload["int8_bytes"] == (run.folder / "unet_int8.pt").stat().st_size
    assert workload["float_bytes"] == (run.folder / "unet_float.pt").stat().st_size
    assert workload["int8_bytes"] < 0.3 * workload["float_bytes"]


def test_transposed_convolutions_have_a_scale_for_each_output_channel(run: Any) -> None:
    state = torch.load(run.folder / "unet_int8.pt", weights_only=True)
    for level in range(3):
        weight, scale = state[f"grow.{level}.weight_int8"], state[f"grow.{level}.weight_scale"]
        assert weight.dtype == torch.int8
        assert scale.shape == (weight.shape[1],)
        assert len(scale.unique()) > 1


def test_saved_weights_are_all_that_another_process_needs(run: Any, example: Any) -> None:
    assert run.results["values"]["reloaded_same_bits"] is True
    images = example.Scenes("test", 3).batch(2, 96)[0]
    trained = example.UNet(_QUICK_WIDTH)
    trained.load_state_dict(torch.load(run.folder / "unet_float.pt", weights_only=True))
    int8 = tq.load_quantized(
        example.fused(example.EagerUNet(_QUICK_WIDTH)), run.folder / "unet_int8.pt"
    )
    with torch.inference_mode():
        got, wanted = int8(images), trained.eval()(images)
    assert not torch.equal(got, wanted)
    noise = (got - wanted).pow(2).mean()
    assert wanted.pow(2).mean() / noise > 100  # 20 dB


def test_the_picture_shows_masks(run: Any) -> None:
    picture = Image.open(run.folder / "static_unet.png")
    assert picture.format == "PNG"
    pixels = numpy.asarray(picture.convert("RGB")).astype(int)
    # Left to right: the input is grey, both masks are green somewhere.
    green = (pixels[..., 1] - pixels[..., 0] > 60).mean(axis=0)
    quarter = pixels.shape[1] // 4
    assert green[: quarter - 10].max() == 0
    assert green[quarter : 2 * quarter].max() > 0.05
    assert green[2 * quarter : 3 * quarter].max() > 0.05


def test_eager_and_plain_networks_are_one_network(example: Any) -> None:
    torch.manual_seed(0)
    plain = example.UNet(4).eval()
    images = torch.rand(2, 1, 24, 40)
    with torch.inference_mode():
        wanted = plain(images)
        got = example.eager_unet(plain, 4)(images)
    assert wanted.shape == images.shape
    torch.testing.assert_close(got, wanted)


def test_sets_share_no_coins_and_no_photographs(example: Any) -> None:
    scenes = sys.modules["static_unet_parts.scenes"]
    for of in (scenes.BACKGROUNDS, scenes.COIN_ROWS):
        assert set(of) == {"train", "validation", "test"}
        for one, other in combinations(of.values(), 2):
            assert not set(one) & set(other)
    rows = scenes.cut_out()
    assert [len(row) for row in rows] == [6, 6, 6, 6]


def test_masks_are_where_coins_lie(example: Any) -> None:
    scenes = sys.modules["static_unet_parts.scenes"]
    images, masks = scenes.Scenes("test", 0).batch(6, 96)
    assert images.shape == masks.shape == (6, 1, 96, 96)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert (masks.mean((1, 2, 3)) > 0).all()
    again = scenes.Scenes("test", 0).batch(6, 96)
    assert torch.equal(images, again[0])
    assert not torch.equal(images, scenes.Scenes("test", 1).batch(6, 96)[0])
    # The first thing that a maker draws is the background: a scene is that but for its coins.
    background = torch.from_numpy(scenes.Scenes("test", 0)._crop(96))
    mask, near = masks[0, 0], torch.nn.functional.max_pool2d(masks[:1], 5, 1, 2)[0, 0]
    assert torch.equal(images[0, 0][near == 0], background[near == 0])
    assert (images[0, 0] != background)[mask > 0].float().mean() > 0.9


def test_the_strip_has_the_six_test_coins(example: Any) -> None:
    from skimage import measure

    scenes = sys.modules["static_unet_parts.scenes"]
    image, mask = scenes.test_row()
    assert image.shape == mask.shape == (1, 1, 72, 384)
    assert measure.label(mask[0, 0].numpy()).max() == 6


def test_mean_iou_by_hand(example: Any) -> None:
    training = sys.modules["static_unet_parts.training"]
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    found = torch.tensor([True, False, False, False]).reshape(1, 1, 2, 2)
    # Coin: 1 of 2 pixels; ground: 2 of 3.
    assert training.mean_iou([found], [(truth, truth)]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert training.mean_iou([truth > 0], [(truth, truth)]) == 1
