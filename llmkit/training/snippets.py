"""Code for the model card that uses a saved folder with transformers alone, by the Auto class of the task's model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmkit.data.chat import assistant_turn
from llmkit.data.spans import MARK, pretokenized
from llmkit.task import Row, Task
from llmkit.tasks._pairs import plain_text


def snippet(task: Task, folder: Path, row: Row) -> str:
    """Return code that asks the model in `folder` about a training row; empty if no snippet fits the task's rows."""
    write = SNIPPETS.get(task.auto_class)
    try:
        return write(task, str(folder), row) if write else ""
    except (KeyError, AttributeError, TypeError):  # a task from elsewhere, whose rows have other columns
        return ""


def _load(task: Task, folder: str) -> str:
    return (
        f"from transformers import {task.auto_class}, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
        f"model = {task.auto_class}.from_pretrained({folder!r})\n"
    )


def _pipeline(name: str, kind: str, folder: str, options: str = "") -> str:
    return f"from transformers import pipeline\n\n{name} = pipeline({kind!r}, {folder!r}{options})\n"


def _causal_lm(task: Task, folder: str, row: Row) -> str:
    tokenizer = f", tokenizer={folder!r}"  # an adapter's folder would be given its base's, which has no such template
    if not row.get("text"):
        turns = row["prompt"] if "prompt" in row else _before_answer(row["messages"])
        messages = [{"role": t["role"], "content": t["content"][:200]} for t in turns]
        return (
            f"{_pipeline('chat', 'text-generation', folder, tokenizer)}messages = {messages!r}\n"
            "print(chat(messages, max_new_tokens=20, do_sample=False)[0]['generated_text'][-1]['content'])"
        )
    prompt = " ".join(row["text"].split()[:4])[:40]
    return (
        f"{_pipeline('generator', 'text-generation', folder, tokenizer)}"
        f"print(generator({prompt!r}, max_new_tokens=30, do_sample=False)[0]['generated_text'])"
    )


def _before_answer(turns: Sequence[Row]) -> Sequence[Row]:
    return turns[: [*(t["role"] for t in turns), "assistant"].index("assistant")]


def _masked_lm(task: Task, folder: str, row: Row) -> str:
    words = " ".join(row["text"].split()[:8])[:60]
    return f"{_pipeline('fill', 'fill-mask', folder)}print(fill({words!r} + fill.tokenizer.mask_token)[0])"


def _sequence_classification(task: Task, folder: str, row: Row) -> str:
    if "chosen" in row:
        return _reward(folder, row)
    if len(task.predict_columns) > 1 and not {*task.predict_columns} <= {"text", "text_pair"}:
        return ""  # the pipeline takes no other columns
    inputs = {column: row[column][:200] for column in task.predict_columns}
    thresholds = getattr(task, "threshold", None) or {}
    values = ", ".join(f"{name} {least:g}" for name, least in thresholds.items())
    note = f"# metrics and llmkit's answers use the thresholds {values}, which no pipeline knows\n" if values else ""
    asked = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    head, _, rest = _pipeline("classify", "text-classification", folder).partition("\n\n")
    return f"{head}\n\n{note}{rest}print(classify({asked!r}, truncation=True))"


def _reward(folder: str, row: Row) -> str:
    options = f", tokenizer={folder!r}, function_to_apply='none'"
    load = _pipeline("reward", "text-classification", folder, options)
    if (Path(folder) / "chat_template.jinja").exists():
        return (
            f"{load}messages = {[*row['prompt'], assistant_turn(row['chosen'])]!r}\n"
            "text = reward.tokenizer.apply_chat_template(messages, tokenize=False)\n"
            "print(reward(text, add_special_tokens=False))"
        )
    pair = {"text": plain_text(row["prompt"]), "text_pair": row["chosen"]}
    return f"{load}print(reward({pair!r}, truncation='only_first'))"


def _token_classification(task: Any, folder: str, row: Row) -> str:
    """By words, as the model was trained: a pipeline takes "Berlin," for one word."""
    shown = task.model_words(row, "mark")
    words = ["mark" if n == MARK else repr(w) for (_, n), w in zip(shown, pretokenized(shown, True), strict=True)]
    mark = "mark = tokenizer.sep_token or tokenizer.eos_token\n" if "mark" in words else ""
    return (
        f"{_load(task, folder)}{mark}words = [{', '.join(words)}]\n"
        "batch = tokenizer(words, is_split_into_words=True, return_tensors='pt')\n"
        "best = model(**batch).logits[0].argmax(-1).tolist()\n"
        "numbers = batch.word_ids()\n"
        "names = model.config.id2label\n"
        "tags = [names[best[numbers.index(n)]] if n in numbers else 'O' for n in range(len(words))]\n"
        "print(list(zip(words, tags)))"
    )


def _question_answering(task: Task, folder: str, row: Row) -> str:
    return (
        f"{_load(task, folder)}"
        f"question, context = {row['question'][:200]!r}, {row['context'][:600]!r}\n"
        "inputs = tokenizer(question, context, return_tensors='pt')\n"
        "outputs = model(**inputs)\n"
        "start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()\n"
        "print(tokenizer.decode(inputs['input_ids'][0, start : end + 1]))"
    )


def _seq2seq(task: Any, folder: str, row: Row) -> str:
    text = task.prefix + row[task.source][:400]
    return (
        f"{_load(task, folder)}batch = tokenizer([{text!r}], return_tensors='pt')\n"
        "print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))"
    )


def _embedding(task: Any, folder: str, row: Row) -> str:
    columns = ("text", "text_pair") if task.graded else ("anchor", "positive")
    pooled = "[0]" if task.pooling == "cls" else ".mean(0)"
    load = _pipeline("embed", "feature-extraction", folder, f", tokenizer={folder!r}, truncation=True")
    return (
        f"import torch\n{load}texts = {[row[c][:200] for c in columns]!r}\n"
        f"first, second = (embed(text, return_tensors=True)[0]{pooled} for text in texts)\n"
        f"# the same: sentence_transformers.SentenceTransformer({folder!r}).encode(texts)\n"
        "print(f'cosine {torch.cosine_similarity(first, second, dim=0):.4f}')"
    )


SNIPPETS: dict[str, Callable[[Any, str, Row], str]] = {
    "AutoModelForCausalLM": _causal_lm,
    "AutoModelForMaskedLM": _masked_lm,
    "AutoModelForSequenceClassification": _sequence_classification,
    "AutoModelForTokenClassification": _token_classification,
    "AutoModelForQuestionAnswering": _question_answering,
    "AutoModelForSeq2SeqLM": _seq2seq,
    "AutoModel": _embedding,
}
