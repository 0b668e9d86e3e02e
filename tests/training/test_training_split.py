import numpy as np
import pytest

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.split import Order, Split, neighbours_alike, split_rows
from ml_inference.workbench.training.target import Target, read_target


def binary(rows: int = 1000, share: float = 0.05, seed: int = 0) -> Target:
    chosen = np.random.default_rng(seed).random(rows) < share
    return read_target(["1" if one else "0" for one in chosen])


def assert_parts_are_whole(split: Split, rows: int) -> None:
    assert sorted([*split.development, *split.held_out]) == list(range(rows))
    for fold in split.folds:
        assert not set(fold.training) & set(fold.validation)
        assert set(fold.training) | set(fold.validation) == set(split.development)
    assert len(set(split.validated)) == len(split.validated)


def test_without_group_and_time_each_part_has_each_class_in_proportion() -> None:
    target = binary()
    split = split_rows(target, seed=3)
    assert_parts_are_whole(split, 1000)
    assert len(split.held_out) == 200
    assert len(split.folds) == 5
    assert set(split.validated) == set(split.development)
    share = target.values.mean()
    for part in (split.held_out, *(fold.validation for fold in split.folds)):
        assert target.values[part].mean() == pytest.approx(share, abs=1 / len(part))


def test_another_seed_holds_out_other_rows_and_the_same_seed_the_same() -> None:
    target = binary()
    assert split_rows(target, seed=1).held_out.tolist() == split_rows(target, seed=1).held_out.tolist()
    assert split_rows(target, seed=1).held_out.tolist() != split_rows(target, seed=2).held_out.tolist()


def test_no_group_is_in_two_parts_nor_in_training_and_validation_of_a_fold() -> None:
    target = binary(share=0.2)
    groups = np.array([f"machine {row % 17}" for row in range(1000)])
    split = split_rows(target, groups=groups, group_name="machine", seed=1)
    assert_parts_are_whole(split, 1000)
    assert not set(groups[split.development]) & set(groups[split.held_out])
    for fold in split.folds:
        assert not set(groups[fold.training]) & set(groups[fold.validation])
    assert "of 17 held out whole" in split.how
    # A cluster is a machine.
    for cluster in np.unique(split.clusters):
        assert len(set(groups[split.held_out][split.clusters == cluster])) == 1


def test_groups_that_never_fail_do_not_fill_the_held_out_part() -> None:
    groups = np.repeat([f"m{i}" for i in range(20)], 50)
    label = ["1" if int(name[1:]) < 4 and row % 5 == 0 else "0" for row, name in enumerate(groups)]
    target = read_target(label)
    for seed in range(5):
        split = split_rows(target, groups=groups, seed=seed)
        assert 0 < target.values[split.held_out].sum() < target.values.sum()


def test_one_group_that_fails_cannot_be_held_out_and_learnt_from() -> None:
    groups = np.repeat(["a", "b", "c", "d"], 50)
    target = read_target(["1" if row % 5 == 0 and name == "a" else "0" for row, name in enumerate(groups)])
    with pytest.raises(TrainingError, match="that are not held out hold no row of class '1'"):
        split_rows(target, groups=groups, group_name="machine")


def test_three_groups_are_enough_and_two_are_not() -> None:
    target = binary(300, 0.3)
    split = split_rows(target, groups=np.array(["a", "b", "c"] * 100))
    assert len(split.held_out) == 100
    assert len(split.folds) == 2
    with pytest.raises(TrainingError, match="2 groups in 'machine'"):
        split_rows(target, groups=np.array(["a", "b"] * 150), group_name="machine")


def test_by_time_the_latest_are_held_out_and_those_before_validate() -> None:
    target = binary(1000, 0.3)
    seconds = np.random.default_rng(5).permutation(1000).astype(float)
    split = split_rows(target, seconds=seconds)
    assert_parts_are_whole(split, 1000)
    (fold,) = split.folds
    assert seconds[fold.training].max() < seconds[fold.validation].min()
    assert seconds[fold.validation].max() < seconds[split.held_out].min()
    assert (len(fold.training), len(fold.validation), len(split.held_out)) == (600, 200, 200)
    # Clusters are stretches of time: in order of time they never go back.
    assert (np.diff(split.clusters[np.argsort(seconds[split.held_out])]) >= 0).all()


def test_rows_of_one_moment_stay_together() -> None:
    target = binary(1000, 0.3)
    seconds = np.repeat(np.arange(10.0), 100) + 0.0
    split = split_rows(target, seconds=np.where(seconds == 7, 8, seconds))
    assert set(seconds[split.held_out]) == {7.0, 8.0, 9.0}


def test_a_late_part_without_a_class_is_an_error() -> None:
    target = read_target(["1"] * 50 + ["0"] * 950)
    with pytest.raises(
        TrainingError, match="the latest fifth of the rows, which is held out, hold no row of class '1'"
    ):
        split_rows(target, seconds=np.arange(1000.0))
    with pytest.raises(TrainingError, match="of one moment"):
        split_rows(target, seconds=np.zeros(1000))


def test_a_regression_is_split_too() -> None:
    target = read_target([str(row / 3) for row in range(100)], objective="reg:squarederror")
    groups = np.array([f"g{row % 10}" for row in range(100)])
    for split in (split_rows(target), split_rows(target, groups=groups), split_rows(target, seconds=np.arange(100.0))):
        assert_parts_are_whole(split, 100)
        assert len(split.held_out) == 20


def order(values: np.ndarray, how: str = "auto", files: np.ndarray | None = None) -> Order:
    codes = np.zeros(len(values), dtype=np.int32) if files is None else files.astype(np.int32)
    return Order(how, values.astype(np.float32), codes)


def wandering(rows: int = 1_000) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.column_stack([random.normal(size=rows), np.cumsum(random.normal(size=rows))])


def test_neighbours_are_alike_only_where_they_are_more_so_than_by_chance() -> None:
    random = np.random.default_rng(1)
    assert not any(neighbours_alike(random.normal(size=(rows, 5)).astype(np.float32)) for rows in (40, 200, 5_000))
    assert neighbours_alike(wandering())
    assert neighbours_alike(np.sin(np.arange(500, dtype=np.float32) / 10).reshape(-1, 1))
    assert not neighbours_alike(np.arange(5, dtype=np.float32).reshape(-1, 1))
    assert not neighbours_alike(np.ones((100, 1), np.float32))


def test_rows_that_resemble_their_neighbours_are_held_out_in_blocks_and_the_split_says_so() -> None:
    target = read_target([str(int(row % 50 < 5)) for row in range(1_000)])
    split = split_rows(target, order=order(wandering()))
    assert_parts_are_whole(split, 1_000)
    assert "since neighbouring rows are alike; --split rows" in split.how
    blocks = split.held_out // 20
    assert all((blocks == block).sum() == 20 for block in np.unique(blocks))
    assert split.clustered_by == "block of rows"


def test_rows_in_any_random_order_are_drawn_one_by_one_and_so_are_others_when_asked_for() -> None:
    target = read_target([str(int(row % 50 < 5)) for row in range(1_000)])
    noise = np.random.default_rng(2).normal(size=(1_000, 2))
    assert split_rows(target, order=order(noise)).how.startswith("by rows at random")
    assert split_rows(target, order=order(wandering(), "rows")).clustered_by == "row"
    assert split_rows(target, order=order(noise, "blocks")).clustered_by == "block of rows"


def test_several_files_are_held_out_whole() -> None:
    target = read_target([str(int(row % 50 < 5)) for row in range(1_000)])
    files = np.arange(1_000) // 100
    split = split_rows(target, order=order(np.random.default_rng(3).normal(size=(1_000, 2)), files=files))
    assert split.how == "by file: 2 of 10 held out whole"
    assert not set(files[split.held_out]) & set(files[split.development])


def test_blocks_that_cannot_hold_each_class_are_no_split_without_a_word() -> None:
    target = read_target([str(int(row < 20)) for row in range(1_000)])
    assert "though neighbouring rows are alike" in split_rows(target, order=order(wandering())).how
    with pytest.raises(TrainingError, match="hold no row of class"):
        split_rows(target, order=order(wandering(), "blocks"))
