"""Weights of another clip size: tables are interpolated on request, and nothing is guessed."""

import pytest
import torch

from dualformer import ConfigError, create_model
from dualformer.weights import WeightsError, load_weights
from tests.helpers.small_weights import VIT, same_logits, shaken, small


def ramp(grid):
    """A table whose three channels are the coordinates of each cell, from 0 at one end of the grid to 1."""
    axes = [(torch.arange(size) + 0.5) / size for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


@pytest.mark.parametrize(
    ("name", "table", "before", "after", "grids"),
    [
        ("vivit_base", "pos_embed", (8, 64), (16, 64), ((4, 4, 4), (8, 4, 4))),
        ("vivit_base", "pos_embed", (8, 64), (8, 96), ((4, 4, 4), (4, 6, 6))),
        ("vivit_base", "pos_embed", (32, 224), (8, 64), ((16, 14, 14), (4, 4, 4))),
        ("timesformer_joint", "pos_embed", (4, 64), (4, (96, 128)), ((1, 4, 4), (1, 6, 8))),
        ("timesformer_joint", "time_embed", (4, 64), (10, 64), ((4, 1, 1), (10, 1, 1))),
    ],
)
def test_position_tables_are_interpolated_on_request(name, table, before, after, grids):
    small_vit = {**VIT, "embed_dim": 3, "num_heads": 1}
    source = create_model(name, **{**small_vit, "num_frames": before[0], "crop_size": before[1]})
    model = create_model(name, **{**small_vit, "num_frames": after[0], "crop_size": after[1]})
    state = shaken(source).state_dict()
    leading = state[table][:, : int(table == "pos_embed")]
    state[table] = torch.cat([leading, ramp(grids[0])[None]], dim=1)
    with pytest.raises(WeightsError, match=rf"{table} .*interpolate=True"):
        load_weights(model, state)
    report = load_weights(model, state, interpolate=True)
    assert f"{table} interpolated" in str(report)

    loaded = getattr(model, table).detach()
    torch.testing.assert_close(loaded[:, : leading.shape[1]], leading)  # the class token has no place
    cells = loaded[0, leading.shape[1] :].reshape(*grids[1], 3)
    expected = ramp(grids[1]).reshape(*grids[1], 3)
    # A linear ramp stays one, but for cells beyond the centre of the outermost old cell.
    inner = tuple(slice(size // 4, size - size // 4) for size in grids[1])
    for axis in range(3):
        torch.testing.assert_close(cells[inner][..., axis], expected[inner][..., axis])


def test_a_table_of_the_right_shape_is_left_alone():
    trained, fresh = shaken(small("vivit_base")), small("vivit_base")
    assert load_weights(fresh, trained.state_dict(), interpolate=True).notes == ()
    same_logits(trained, fresh)


def test_a_grid_that_cannot_be_told_is_refused():
    state = small("vivit_base").state_dict()
    state["pos_embed"] = torch.zeros(1, 1 + 7, 24)
    with pytest.raises(WeightsError, match="can't tell which grid the 7 cells"):
        load_weights(small("vivit_base"), state, interpolate=True)
    with pytest.raises(WeightsError, match=r"tried \(1, 2, 2\)"):
        load_weights(small("vivit_base"), state, interpolate={"num_frames": 2})


def test_the_size_that_learned_a_table_may_be_stated():
    state = shaken(small("vivit_base", num_frames=16)).state_dict()  # 8x2x2: not to be told from 2x4x4
    model = small("vivit_base", crop_size=64)
    with pytest.raises(ConfigError, match="unknown field 'frames'; did you mean 'num_frames'"):
        load_weights(model, state, interpolate={"frames": 16})
    load_weights(model, state, interpolate={"num_frames": 16, "crop_size": 32})
    # The first of 2 time steps lies between the second and the third of 8; in space the first cell is the corner.
    _, second, third, *_ = state["pos_embed"][0, 1:].reshape(8, 2, 2, -1)[:, 0, 0]
    torch.testing.assert_close(model.pos_embed[0, 1].detach(), (second + third) / 2)


@pytest.mark.parametrize(
    ("name", "kind", "before", "after"),
    [
        ("dualformer_tiny", {"position": "absolute"}, {"crop_size": 32}, {"num_frames": 8, "crop_size": (48, 40)}),
        (
            "dualformer_tiny",
            {"attention": "LS", "position": "relative", "crop_size": 64},
            {"window_size": (8, 7, 7)},
            {"window_size": (8, 5, 5)},
        ),
        ("video_swin_tiny", {}, {"window_size": (4, 3, 3)}, {"window_size": (8, 4, 4)}),
    ],
)
def test_tables_of_windows_and_maps_keep_a_constant(name, kind, before, after):
    state = shaken(small(name, **kind, **before)).state_dict()
    tables = [key for key in state if key.endswith(("absolute_position", "bias_table"))]
    for key in tables:
        state[key] = torch.full_like(state[key], 0.7)
    model = small(name, **kind, **after)
    report = load_weights(model, state, interpolate={"num_frames": 4, **before})
    assert report.notes
    for key in tables:
        torch.testing.assert_close(model.state_dict()[key], torch.full_like(model.state_dict()[key], 0.7))


def test_pooling_kernels_of_dualformer_keep_what_they_sum_to():
    """A map that is the same everywhere pools to the same tokens at any clip size."""
    trained = shaken(small("dualformer_tiny", num_frames=32, crop_size=224))
    model = small("dualformer_tiny", num_frames=16, crop_size=(160, 192))
    with pytest.raises(WeightsError, match=r"levels\.fine\.pool\.weight.*interpolate=True"):
        load_weights(model, trained.state_dict())
    report = load_weights(model, trained.state_dict(), interpolate=True)
    assert "fine.pool.weight interpolated from [8, 1, 2, 8, 8] to [8, 1, 1, 6, 7]" in str(report)
    for stage in range(2):
        for level in ("fine", "coarse"):
            before, after = (m.stages[stage].blocks[1].attn.levels[level] for m in (trained, model))
            channels = torch.randn(1, 8, 1, 1, 1)
            with torch.inference_mode():
                expected = before(channels.expand(-1, -1, *before.grid))
                got = after(channels.expand(-1, -1, *after.grid))
            torch.testing.assert_close(got, expected[:, :, :1, :1, :1].expand_as(got), rtol=1e-4, atol=1e-4)


def test_video_swin_loads_at_any_clip_size_without_interpolation():
    state = shaken(small("video_swin_tiny")).state_dict()
    assert load_weights(small("video_swin_tiny", num_frames=7, crop_size=(50, 40)), state).missing == ()
