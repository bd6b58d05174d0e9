"""Make the teacher and the initial student from nothing, as Hugging Face folders under models/.

Run from the repository root: `python -m examples.digits.make_models`. The teacher learns to read
the pictures, and now and then answers without one, so that it has an opinion in the text-only
context. The student learns the language first and then overfits on the pictures of a few digits:
its sight stays weak and does not change when training goes on.
"""

import argparse
import logging
import shutil
import time
from pathlib import Path

import torch
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from examples.digits.batches import Batches
from examples.digits.evaluate import accuracy, load_rows
from examples.digits.models import make_model
from examples.digits.pictures import load_split
from examples.digits.processor import make_processor
from examples.digits.sft import Stage, train

logger = logging.getLogger(__name__)

MODELS = Path(__file__).parent / "models"
SEED = 0
RECIPES = {
    "teacher": (Stage(steps=1400, learning_rate=2e-3, text_only=0.25, noise=1.0),),
    "student": (
        Stage(steps=600, learning_rate=1.5e-3, text_only=1.0),
        Stage(steps=320, learning_rate=1.5e-3, text_only=0.25, images_per_class=1),
    ),
}


def make(name: str, processor: Qwen3VLProcessor) -> Qwen3VLForConditionalGeneration:
    """Build and train "teacher" or "student"."""
    torch.manual_seed(SEED)
    model = make_model(name, processor.tokenizer)
    for number, stage in enumerate(RECIPES[name]):
        logger.info("model=%s stage=%s", name, stage)
        digits = load_split("train")
        if stage.images_per_class is not None:
            digits = digits.first_of_each_class(stage.images_per_class)
        train(model, Batches(processor, digits, seed=SEED + number), stage)
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
    parser.add_argument("--out", type=Path, default=MODELS, help="the folder of the model folders")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    processor, rows = make_processor(), load_rows("validation")
    for name in args.models:
        started = time.monotonic()
        model = make(name, processor)
        save(model, processor, args.out / name)
        seconds = time.monotonic() - started
        print(
            f"{name}: validation accuracy {accuracy(model, processor, rows):.3f}, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
