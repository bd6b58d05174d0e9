import torch

from student_trainer.support import Support


def test_rows_of_all_responses_stand_one_after_the_other(make_scores) -> None:
    first = make_scores([[3, 5], [0]], 6)
    second = make_scores([[1, 2, 4]], 6)
    support = Support.from_scores([first, second], vocab_size=100)
    assert support.ids.dtype == torch.int64
    assert support.ids.tolist() == [[3, 5, 0], [0, 0, 0], [1, 2, 4]]
    assert support.id_mask.tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
    ]
    assert support.tail_mask.tolist() == [True, True, True]
    assert support.teacher_mm_logprobs.dtype == torch.float32
    assert support.teacher_mm_logprobs.tolist() == [
        [-1.0, -2.0, 0.0, -0.125],
        [-3.0, 0.0, 0.0, -0.25],
        [-1.0, -2.0, -3.0, -0.125],
    ]
    assert torch.equal(support.teacher_text_logprobs, 2 * support.teacher_mm_logprobs)


def test_bucket_mask_ends_with_the_tail(make_scores) -> None:
    support = Support.from_scores([make_scores([[0, 1, 2], [1]], 3)], vocab_size=100)
    assert support.tail_mask.tolist() == [False, True]
    assert support.bucket_mask.tolist() == [[True, True, True, False], [True, False, False, True]]
    assert support.teacher_mm_logprobs[0, -1].item() == 0.0


def test_an_id_of_zero_is_told_from_padding_by_the_mask(make_scores) -> None:
    support = Support.from_scores([make_scores([[0], [2, 4]], 5)], vocab_size=100)
    assert support.ids[0].tolist() == [0, 0]
    assert support.id_mask[0].tolist() == [True, False]


def test_a_log_probability_of_zero_is_kept(make_scores) -> None:
    scores = make_scores([[1, 2]], 5)
    scores.mm_logprobs[:] = [0.0, -90.0]
    support = Support.from_scores([scores], vocab_size=100)
    assert support.teacher_mm_logprobs[0, :2].tolist() == [0.0, -90.0]
    assert support.bucket_mask.all()


def test_the_support_shares_no_memory_with_the_scores(make_scores) -> None:
    scores = make_scores([[1, 2]], 5)
    support = Support.from_scores([scores], vocab_size=100)
    scores.mm_logprobs[:] = 7
    scores.tail_mask[:] = False
    assert support.teacher_mm_logprobs[0].tolist() == [-1.0, -2.0, -0.125]
    assert support.tail_mask.tolist() == [True]
