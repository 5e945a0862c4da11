"""Fine-tunes a recipe's teacher, or the members of its ensemble one after another.

    python trainers/fine_tune.py movie_sentiment
    python trainers/fine_tune.py movie_sentiment teacher.fine_tune.num_train_epochs=1 --output-dir runs/mine
    accelerate launch --multi_gpu --num_processes 2 trainers/fine_tune.py movie_sentiment

The teacher ends up in OUTPUT_DIR/teacher (members in teacher_1 and so on), where `trainers/distill.py` looks for it.
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

# 1. The recipe.
recipe = Recipe.load(options.recipe, options.overrides)
folder = options.output_dir or Path("runs") / recipe.name
to_train = {name: member for name, member in recipe.teachers.items() if member.fine_tune is not None}
if not to_train:
    parser.error(f"the teacher of '{recipe.name}' is fine-tuned already: give teacher.fine_tune to train it further")

# 2. Its parts: data and tokenizer.
parts, run_folder = Assembly(recipe, progress=print), RunFolder(folder)

for name, member in to_train.items():
    # 3. The pre-trained checkpoint with a fresh head.
    teacher, checkpoints = parts.teacher(member), folder / "checkpoints" / name

    # 4. Training. Without a teacher of its own, a DistillationTrainer is a Trainer with exact item counts.
    trainer = parts.trainer(teacher, arguments=member.fine_tune, output_dir=checkpoints, seed=member.seed)
    if trainer.is_world_process_zero():
        run_folder.describe(recipe)  # notes the recipe; checkpoints of another one are dropped
        run_folder.begin("teach", recipe)  # what students have learned of an earlier teacher is set aside
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=True)  # from the newest whole checkpoint, if there is one

    # 5. Quality on rows that it was not trained on, and the checkpoint.
    if trainer.is_world_process_zero():
        run_folder.save_model(name, teacher, parts.tokenizer, parts.task.companions(teacher))
        shutil.rmtree(checkpoints, ignore_errors=True)
        refuse_weak_teacher(parts, teacher, name)
        metrics = parts.score(teacher, "validation")
        print(f"{folder / name}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items()))
    trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
