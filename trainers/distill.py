"""Distils a recipe's teacher into its student.

    python trainers/distill.py movie_sentiment
    python trainers/distill.py movie_sentiment objectives.logits_kl.temperature=2 --output-dir runs/mine
    accelerate launch --multi_gpu --num_processes 2 trainers/distill.py movie_sentiment

Expects the teacher in OUTPUT_DIR/teacher (from `trainers/fine_tune.py` or `distil-nlp teach`), unless the recipe's
teacher is fine-tuned already. The student ends up in OUTPUT_DIR/student.
"""

import argparse
import shutil
from pathlib import Path

from huggingface_hub import HfApi

from distil_nlp import Recipe
from distil_nlp.build import Assembly
from distil_nlp.run.folder import RunFolder

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
parser.add_argument("overrides", nargs="*", help="section.key=value")
parser.add_argument("--output-dir", type=Path, help="the run's folder; runs/NAME if not given")
parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="push the student to this repository")
options = parser.parse_args()

# 1. The recipe, its parts, and the folder, which notes the recipe; checkpoints of another one are dropped.
recipe = Recipe.load(options.recipe, options.overrides)
folder = options.output_dir or Path("runs") / recipe.name
parts, run_folder = Assembly(recipe, progress=print), RunFolder(folder)
arguments = parts.training_arguments(recipe.training, folder / "checkpoints")
if arguments.process_index == 0:
    run_folder.describe(recipe, "distill")
    run_folder.begin("distill", recipe)  # what was made of an earlier student is set aside
arguments.distributed_state.wait_for_everyone()

# 2. The teacher, or the members of an ensemble, and the student that starts from the layers of the first.
teachers = {}
for name, member in recipe.teachers.items():
    if member.fine_tune is None:
        teachers[name] = parts.teacher(member)
    elif (folder / name / "config.json").is_file():
        teachers[name] = parts.load_saved(folder / name)
    else:
        parser.error(f"there is no teacher in {folder / name}: run trainers/fine_tune.py {options.recipe} first")
parts, student, on_task, _ = parts.begin(teachers, folder)

# 3. Training, stage by stage where the recipe has several, under its loss. Objectives of your own work as well:
#    objectives=[TaskLoss(weight=0.5), LogitsKL(weight=0.5, temperature=4.0), HiddenStates(), Attentions()]
for stage in recipe.distillation:
    if not (stage.name and (folder / stage.model / "config.json").is_file()):  # or else it was finished before
        taught = parts.taught(student, parts.lesson(stage, on_task), stage, folder)
        trainer = parts.trainer(student, **taught, output_dir=folder / "checkpoints" / stage.model)
        trainer.train(resume_from_checkpoint=True)  # from the newest whole checkpoint, if there is one
        if trainer.is_world_process_zero():
            run_folder.save_model(stage.model, student, parts.tokenizer, parts.task.companions(student))
            shutil.rmtree(folder / "checkpoints" / stage.model, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
    if stage.name:
        student = parts.trained(folder / stage.model)

# 4. Quality on rows that it was not trained on; the checkpoint is an ordinary transformers model.
if trainer.is_world_process_zero():
    student = parts.load_saved(folder / "student")
    metrics = parts.score(student, "validation")
    print(f"{folder / 'student'}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if options.push_to_hub:
        hub = HfApi()
        hub.create_repo(options.push_to_hub, exist_ok=True)
        hub.upload_folder(repo_id=options.push_to_hub, folder_path=folder / "student")
trainer.accelerator.end_training()
