"""Make the teacher and the initial student from nothing, as Hugging Face folders under models/.

Run from the repository root: `python -m examples.digits.make_models`. The teacher learns to read
the pictures, and now and then answers without one, so that it has an opinion in the text-only
context. The student learns the language first and then overfits on the pictures of a few digits:
its sight stays weak and does not change when training goes on.

There are two tasks: in "base" both write the responses of questions.py, in "chatty" each writes
those of chatter.py in a dialect of its own. Questions, pictures and answers are the same.
"""

import argparse
import logging
import shutil
import time
from pathlib import Path

import torch
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from examples.digits import questions
from examples.digits.batches import Batches
from examples.digits.chatter import FILLERS, Chatter
from examples.digits.evaluate import accuracy, load_rows
from examples.digits.models import make_model
from examples.digits.pictures import load_split
from examples.digits.processor import make_processor
from examples.digits.sft import Stage, train

logger = logging.getLogger(__name__)

MODELS = Path(__file__).parent / "models"
"""The models that are shipped: those of SHIPPED."""
SHIPPED = ("base", 0)
"""Task and seed."""
TASKS = {"base": (), "chatty": FILLERS}
"""The fillers of each task."""
RECIPES = {
    "teacher": (Stage(steps=1400, learning_rate=2e-3, text_only=0.25, noise=1.0),),
    "student": (
        Stage(steps=600, learning_rate=1.5e-3, text_only=1.0),
        Stage(steps=320, learning_rate=1.5e-3, text_only=0.25, images_per_class=1),
    ),
}


def make(task: str, name: str, seed: int, folder: Path) -> None:
    """Make one model folder if it is not there yet; what is shipped is copied.

    `name` is "teacher" or "student". The seed stands for the initial weights and the order of
    everything; the digit images are the same for all.
    """
    if folder.exists():
        return
    if (task, seed) == SHIPPED and (MODELS / name).exists():
        fresh = folder.with_name(f".{folder.name}.new")  # a copy cut short is no model folder
        shutil.copytree(MODELS / name, fresh, dirs_exist_ok=True)
        fresh.rename(folder)
        return
    processor = make_processor(TASKS[task])
    save(build(task, name, seed, processor), processor, folder)


def build(
    task: str, name: str, seed: int, processor: Qwen3VLProcessor
) -> Qwen3VLForConditionalGeneration:
    """Build and train "teacher" or "student"."""
    torch.manual_seed(seed)
    model = make_model(name, processor.tokenizer)
    write = Chatter(name, seed).response if task == "chatty" else questions.response
    for number, stage in enumerate(RECIPES[name]):
        logger.info("task=%s model=%s seed=%d stage=%s", task, name, seed, stage)
        digits = load_split("train")
        if stage.images_per_class is not None:
            digits = digits.first_of_each_class(stage.images_per_class)
        batches = Batches(processor, digits, write, seed=seed * len(RECIPES[name]) + number)
        train(model, batches, stage)
    return model


def save(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, folder: Path) -> None:
    """Write the model folder beside its place, then move it there."""
    fresh, stale = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    processor.save_pretrained(fresh)
    if folder.exists():
        folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)


def main() -> None:
    """Make the models that are asked for, and print their accuracy on the validation questions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(RECIPES), help="teacher, student or both")
    parser.add_argument("--task", choices=list(TASKS), default="base", help="what they write")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and batches")
    parser.add_argument("--out", type=Path, default=MODELS, help="the folder of the model folders")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    if (args.task, args.seed) != SHIPPED and args.out.resolve() == MODELS.resolve():
        parser.error(f"{MODELS} keeps the models of base and seed 0: give --out for others")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    processor, rows = make_processor(TASKS[args.task]), load_rows("validation")
    for name in args.models:
        started = time.monotonic()
        model = build(args.task, name, args.seed, processor)
        save(model, processor, args.out / name)
        seconds = time.monotonic() - started
        print(
            f"{name}: validation accuracy {accuracy(model, processor, rows):.3f}, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
