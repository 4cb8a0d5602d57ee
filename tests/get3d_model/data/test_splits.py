import pytest

from get3d_model.data.splits import hash_split, read_split_file, read_split_files, split_groups
from get3d_model.errors import InputError


def test_split_file(tmp_path):
    (tmp_path / "t.txt").write_text("# cars\na\n\n  b \nc\n")
    assert read_split_file(tmp_path / "t.txt") == ["a", "b", "c"]
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")  # as Windows writes it
    assert read_split_file(tmp_path / "t.txt") == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"\n#a\n", "lists no shape"),
        (b"a\nb\na\n", "'a' more than once"),
        (b"\xff", "cannot"),
    ],
)
def test_bad_split_file(tmp_path, content, reason):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_split_file(path)
    assert str(path) in str(caught.value)


def test_a_shape_in_two_splits(tmp_path):
    for name in ("train", "val"):
        (tmp_path / name).write_text(f"{name}\nboth\n")
    with pytest.raises(InputError, match=r"'both' is in both .*train and .*val"):
        read_split_files({name: tmp_path / name for name in ("train", "val")})


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10, 500])
def test_hash_split_covers_everything_and_leaves_no_side_empty(count, fraction):
    ids = [f"shape{i}" for i in range(count)]
    split = hash_split(ids, fraction, seed=1)
    assert sorted(split["train"] + split["val"]) == sorted(ids)
    assert split["train"]
    assert split["val"]
    if count == 500:
        # Binomial: five standard deviations.
        assert abs(len(split["val"]) / count - fraction) < 5 * (fraction * (1 - fraction) / count) ** 0.5
    assert hash_split(reversed(ids), fraction, seed=1) == split


def test_hash_split_of_few_shapes():
    assert hash_split(["a"], 0.5, 0) == {"train": ["a"], "val": []}
    assert hash_split(["a", "b"], 0.0, 0) == {"train": ["a", "b"], "val": []}
    with pytest.raises(InputError, match=r"fraction must be .* got 1.0"):
        hash_split(["a"], 1.0, 0)


def test_hash_split_keeps_shapes_where_they_are_when_others_come():
    few = hash_split([f"shape{i}" for i in range(300)], 0.2, seed=3)
    many = hash_split([f"shape{i}" for i in range(600)], 0.2, seed=3)
    assert set(few["val"]) <= set(many["val"])
    assert hash_split([f"shape{i}" for i in range(300)], 0.2, seed=4) != few


def test_groups_are_not_torn_apart():
    marks = {"a": ["g/1"], "b": ["g/1", "h/x"], "c": ["h/x"], "d": [], "e": ["g/2"]}
    assert split_groups(marks) == {"a": "a", "b": "a", "c": "a"}
    ids = [f"shape{i:03d}" for i in range(400)]
    groups = split_groups({name: [name[:-1]] for name in ids})
    assert groups["shape123"] == "shape120"
    for seed in range(5):
        split = hash_split(ids, 0.2, seed, groups)
        assert sorted(split["train"] + split["val"]) == ids
        # Whole tens of shapes: about a fifth of the 40 groups.
        assert not {name[:-1] for name in split["train"]} & {name[:-1] for name in split["val"]}
        assert 10 <= len(split["val"]) <= 200
    # A shape without a group is where it was before there were any.
    alone = hash_split(ids, 0.2, 0)
    assert hash_split(ids, 0.2, 0, {}) == alone
    grouped = hash_split(ids, 0.2, 0, {"shape000": "shape000", "shape001": "shape000"})
    assert set(grouped["val"]) ^ set(alone["val"]) <= {"shape000", "shape001"}
