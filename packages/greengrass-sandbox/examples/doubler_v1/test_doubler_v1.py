"""The component with the V1 client on both runtimes."""

from pathlib import Path

from greengrass_sandbox import BackgroundNucleus

HERE = Path(__file__).parent


def test_a_number_is_answered_with_its_double(nucleus: BackgroundNucleus) -> None:
    """It runs once on nucleus lite and once on the classic nucleus."""
    answers = nucleus.watch("demo/double")
    nucleus.deploy(HERE / "recipe.yaml", HERE)
    nucleus.wait_for_subscriber("demo/number")
    nucleus.publish("demo/number", b'{"number": 21}')
    assert answers.get(timeout=10).json() == {"double": 42}
