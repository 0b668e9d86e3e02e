import pytest

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.target import Task, read_target


@pytest.mark.parametrize(
    ("texts", "classes"),
    [
        (["0", "1"], ("0", "1")),
        (["1.0", "0.0"], ("0", "1")),
        (["True", "false"], ("0", "1")),
    ],
)
def test_zero_and_false_are_normal_however_rare(texts: list[str], classes: tuple[str, str]) -> None:
    target = read_target([texts[0]] * 30 + [texts[1]] * 30)
    assert target.task is Task.BINARY
    assert target.classes == classes
    expected = [0.0 if text in {"0", "0.0", "false"} else 1.0 for text in texts]
    assert [target.values[0], target.values[-1]] == expected


def test_of_two_words_the_more_frequent_one_is_normal() -> None:
    target = read_target(["worn"] * 10 + ["fine"] * 30)
    assert target.classes == ("fine", "worn")
    assert target.values[0] == 1.0


def test_the_user_says_which_class_is_normal() -> None:
    assert read_target(["0"] * 30 + ["1"] * 10, normal_class="1").classes == ("1", "0")
    with pytest.raises(TrainingError, match="'fine' is not among"):
        read_target(["0"] * 30 + ["1"] * 10, normal_class="fine")


def test_more_classes_are_in_natural_order_and_the_most_frequent_is_normal() -> None:
    target = read_target(["10"] * 10 + ["9"] * 30 + ["b"] * 5)
    assert target.task is Task.MULTI_CLASS
    assert target.classes == ("9", "10", "b")
    assert target.normal == 0
    assert target.abnormal.sum() == 15


def test_a_number_is_predicted_when_asked_for() -> None:
    target = read_target([str(i / 7) for i in range(70)], objective="reg:squarederror")
    assert target.task is Task.REGRESSION
    assert target.values[7] == 1.0


@pytest.mark.parametrize(
    ("texts", "options", "reason"),
    [
        (["0", "1"] * 10, {}, "20 usable rows are too few"),
        (["1"] * 50, {}, "the label is '1' in all 50 usable rows"),
        (["0"] * 50 + ["1"] * 4, {}, "class '1' has 4 usable rows; each class needs 5"),
        ([str(i) for i in range(60)], {}, "60 different values; for a number use --objective reg:squarederror"),
        (["a", "b", "c"] * 20, {"objective": "binary:logistic"}, "needs two classes; the label has 3"),
        (["a", "b"] * 30, {"objective": "reg:squarederror"}, "needs numbers"),
        (["7"] * 60, {"objective": "reg:squarederror"}, "the label is 7 in all rows"),
        (["1", "2"] * 30, {"objective": "reg:squarederror", "normal_class": "1"}, "a regression has none"),
    ],
)
def test_a_label_that_cannot_be_learnt_says_why(texts: list[str], options: dict[str, str], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        read_target(texts, **options)
