import pytest

from benchmarks.truncation import TERMS, Toy


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy(prompts=16)


def test_at_k_8_every_terms_gradient_points_where_the_full_one_does(toy: Toy) -> None:
    support = toy.support(8)
    assert support.tail_mask.all()  # a covered vocabulary would prove nothing
    cosines = toy.cosines(8)
    assert set(cosines) == set(TERMS)
    assert min(cosines.values()) >= 0.99, cosines


def test_on_fewer_ids_the_gradients_part(toy: Toy) -> None:
    assert min(toy.cosines(1).values()) < 0.99
