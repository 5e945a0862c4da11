"""Fine-tunes a recipe's teacher.

    python trainers/fine_tune.py movie_sentiment
    python trainers/fine_tune.py movie_sentiment teacher.fine_tune.num_train_epochs=1 --output-dir runs/mine
    accelerate launch --multi_gpu --num_processes 2 trainers/fine_tune.py movie_sentiment

The teacher ends up in OUTPUT_DIR/teacher, where `trainers/distill.py` and `distil-nlp distill` look for it.
"""

import argparse
import shutil
from pathlib import Path

from distil_nlp import Recipe
from distil_nlp.build import Assembly
from distil_nlp.run.folder import RunFolder
from distil_nlp.run.preflight import refuse_weak_teacher

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
parser.add_argument("overrides", nargs="*", help="section.key=value")
parser.add_argument("--output-dir", type=Path, help="the run's folder; runs/NAME if not given")
options = parser.parse_args()

# 1. The recipe: everything that can be wrong with it is said here.
recipe = Recipe.load(options.recipe, options.overrides)
folder = options.output_dir or Path("runs") / recipe.name
if recipe.teacher.fine_tune is None:
    parser.error(f"the teacher of '{recipe.name}' is fine-tuned already: give teacher.fine_tune to train it further")

# 2. Its parts: data, tokenizer, and the pre-trained checkpoint with a fresh head.
parts = Assembly(recipe, progress=print)
teacher = parts.pretrained()

# 3. Training. Without a teacher of its own, a DistillationTrainer is a Trainer with exact item counts.
trainer = parts.trainer(teacher, arguments=recipe.teacher.fine_tune, output_dir=folder / "checkpoints" / "teacher")
if trainer.is_world_process_zero():
    RunFolder(folder).describe(recipe)  # notes the recipe; checkpoints of another one are dropped
trainer.accelerator.wait_for_everyone()
trainer.train(resume_from_checkpoint=True)  # from the newest whole checkpoint, if there is one

# 4. Quality on rows that it was not trained on, and the checkpoint.
if trainer.is_world_process_zero():
    RunFolder(folder).save_model("teacher", teacher, parts.tokenizer, parts.task.companions(teacher))
    shutil.rmtree(folder / "checkpoints" / "teacher", ignore_errors=True)
    refuse_weak_teacher(parts, teacher)
    metrics = parts.score(teacher, "validation")
    print(f"{folder / 'teacher'}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
trainer.accelerator.end_training()
