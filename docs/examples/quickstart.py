"""The Python example of the README; tests/test_examples.py runs it."""

# [quickstart]
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainingArguments

from distil_nlp import DistillationTrainer, build_student
from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, TaskLoss

teacher = AutoModelForSequenceClassification.from_pretrained("runs/movie_sentiment/teacher")  # any fine-tuned model
tokenizer = AutoTokenizer.from_pretrained("runs/movie_sentiment/teacher")
rows = load_dataset("csv", data_files="train.csv", split="train")  # columns: text, and label as 0 or 1
rows = rows.map(lambda row: tokenizer(row["text"], truncation=True), remove_columns=["text"])

student = build_student(teacher, num_layers=3)
trainer = DistillationTrainer(
    model=student,
    teacher=teacher,
    objectives=[
        TaskLoss(weight=0.5),
        LogitsKL(weight=0.5, temperature=4.0),
        HiddenStates(mapping="uniform"),
        Attentions(mapping="uniform"),
    ],
    args=TrainingArguments(output_dir="runs/student", num_train_epochs=2, report_to="none"),
    train_dataset=rows,
    processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer),
)
trainer.train()
trainer.save_model("runs/student")  # an ordinary checkpoint: AutoModel...from_pretrained("runs/student")
# [/quickstart]
