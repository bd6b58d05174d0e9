"""The server's policy is the student's own: what is most likely, what is drawn, and after every update."""

import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from protos.errors import InternalFault, PreconditionFailed
from rollout_server.staging import Staging
from student_trainer.rollout import Rollout
from student_trainer.student import Student
from student_trainer.vllm_sampler import VllmSampler
from tests.rollout_server.conftest import disturb, own_answers

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="needs the vLLM environment"
    ),
    pytest.mark.filterwarnings("default"),
]


def answers(sampler: VllmSampler, prompts) -> list[list[int]]:
    return [ids.tolist() for ids in sampler.answer(prompts, 8)]


def sample(sampler: VllmSampler, prompts, step: int, seed: int = 3) -> dict[int, Rollout]:
    got: dict[int, Rollout] = {}
    sampler.sample(prompts, step, sampler.generator(seed), got.__setitem__)
    assert sorted(got) == list(range(len(prompts)))
    return got


def own_logprobs(student: Student, prompt, rollout: Rollout) -> torch.Tensor:
    """[T, V]"""
    with torch.no_grad():
        logits = student.read([prompt], [rollout], "mm", lambda h, head: head.logits(h))
        return logits.log_softmax(-1)


def test_greedy_answers_are_the_students_own(sampler, student, prompts):
    assert answers(sampler, prompts) == own_answers(student, prompts)


@pytest.mark.parametrize(
    "part", ["language_model", "visual", ""], ids=["language", "vision", "all"]
)
def test_after_an_update_greedy_answers_are_the_updated_models_own(sampler, student, prompts, part):
    before = answers(sampler, prompts)
    again = answers(sampler, prompts)  # out of the caches of prefixes and pictures
    assert again == before == own_answers(student, prompts)
    disturb(student, part, seed=5)
    sampler.update(1)
    after = answers(sampler, prompts)
    assert after == own_answers(student, prompts)
    changed = [a != b for a, b in zip(after, before, strict=True)]
    assert all(changed[:3]), "each answer about a picture is another now"


def test_many_updates_do_not_add_up(sampler, student, prompts):
    first = answers(sampler, prompts)
    kept = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    for step in range(1, 4):
        disturb(student, "", seed=step)
        sampler.update(step)
        assert answers(sampler, prompts) == own_answers(student, prompts)
    student.model.load_state_dict(kept)
    sampler.update(4)
    assert answers(sampler, prompts) == first


def test_rollouts_come_with_the_students_own_top_ids(sampler, student, prompts):
    got = sample(sampler, [p for p in prompts for _ in range(3)], 0)
    same = []
    for index, rollout in got.items():
        top = own_logprobs(student, prompts[index // 3], rollout).topk(5).indices.numpy()
        assert rollout.candidates is not None
        rows = rollout.candidates.ids.reshape(-1, 5)
        same += [set(a) == set(b) for a, b in zip(top, rows, strict=True)]
        assert rollout.policy_step == 0
        ended = int(rollout.response_ids[-1]) in student.eos_ids
        assert rollout.finished == ended
        assert ended or len(rollout.response_ids) == 16
        assert not set(student.eos_ids) & set(rollout.response_ids[:-1].tolist())
    assert np.mean(same) > 0.99, "up to the last bit of a tie"
    texts = {tuple(rollout.response_ids) for rollout in got.values()}
    assert len(texts) == len(got), "each response is drawn by itself"


def test_sampled_logprobs_are_the_students_own(sampler, student, prompts):
    request = sampler._ask
    wires = _wires(prompts)
    for response in request(wires, sampler._policy, 0, greedy=False):
        rollout = Rollout(response.response_ids, None, response.finished, 0)
        own = own_logprobs(student, prompts[response.prompt_index], rollout)
        drawn = own[torch.arange(len(own)), torch.tensor(response.response_ids, dtype=torch.long)]
        np.testing.assert_allclose(response.logprobs, drawn, atol=2e-5)
        assert response.candidates is None


def test_the_same_seed_draws_the_same(sampler, prompts):
    first, again, other = (
        {i: r.response_ids.tolist() for i, r in sample(sampler, prompts, 0, seed).items()}
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_draws_follow_the_distribution(sampler, student, prompts):
    """First tokens of many draws against the student's probabilities without the barred ids."""
    sampler._config = sampler._config.model_copy(update={"max_new_tokens": 1})
    draws = 2000
    got = sample(sampler, [prompts[0]] * draws, 0)
    counts = np.bincount([r.response_ids[0] for r in got.values()], minlength=student.vocab_size)
    probs = own_logprobs(student, prompts[0], got[0])[0].exp()
    barred = sorted(student.vision_ids())
    probs[barred] = 0
    probs = (probs / probs.sum()).numpy()
    assert counts[barred].sum() == 0
    common = np.flatnonzero(probs * draws >= 5)
    rest = np.setdiff1d(np.arange(len(probs)), common)
    observed = np.append(counts[common], counts[rest].sum())
    expected = np.append(probs[common], probs[rest].sum()) * draws
    chi2 = ((observed - expected) ** 2 / expected).sum()
    freedom = len(common)
    assert len(common) > 20
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom)


def test_what_stands_for_images_is_never_sampled(sampler, student, prompts):
    head = student.model.get_output_embeddings().weight
    with torch.no_grad():  # a student that wants nothing but images
        head.zero_()
    sampler.update(1)
    sampler._vocab_size = 300  # and whose teacher has no more ids
    got = sample(sampler, prompts * 8, 1)
    drawn = {int(i) for rollout in got.values() for i in rollout.response_ids}
    assert len(drawn) > 100
    assert not drawn & student.vision_ids()
    assert max(drawn) < 300
    for rollout in got.values():
        assert rollout.candidates is not None
        assert len(rollout.candidates.splits) == len(rollout.response_ids) + 1
        assert rollout.candidates.ids.max(initial=0) < 300


def test_a_whole_update_mends_half_a_one(sampler, student, prompts, monkeypatch, tmp_path):
    disturb(student, "", seed=9)
    state = student.checkpoint_weights()
    half = dict(list(state.items())[::2])
    save_file(half, tmp_path / "half.safetensors")
    with monkeypatch.context() as torn:
        torn.setattr(Staging, "complete", lambda self: tmp_path / "half.safetensors")
        with pytest.raises(InternalFault, match="internal error"):
            sampler.update(1)
    for step in (0, 1):
        with pytest.raises(PreconditionFailed, match="failed half way; send the weights again"):
            sample(sampler, prompts, step)
    sampler.update(1)
    assert answers(sampler, prompts) == own_answers(student, prompts)


def test_answers_of_another_policy_are_refused(sampler, prompts):
    with pytest.raises(PreconditionFailed, match=r"holds policy .*@0, not .*@1; send the weights"):
        sample(sampler, prompts, 1)
    assert len(sample(sampler, prompts, 0)) == 4


def test_another_trainers_weights_are_noticed(sampler, student, builder, prompts, rollout_server):
    other = VllmSampler(student, sampler._config, student.vocab_size, builder)
    try:
        other.update(0)
        assert len(sample(other, prompts, 0)) == 4
        with pytest.raises(PreconditionFailed, match="let no other trainer use it"):
            sample(sampler, prompts, 0)
    finally:
        other.close()


def _wires(prompts):
    from student_trainer.vllm_sampler import _wire

    return tuple(_wire(prompt, 2, i) for i, prompt in enumerate(prompts))
