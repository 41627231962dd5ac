"""The decorator: the function that calls the model gets a shorter context, and nothing else about it changes."""

from ctxcomp import CompressedText, compress_context

DOCUMENTS = [
    "The Rhine rises in the Swiss Alps. It flows past Basel and Cologne. Barges carry ore and coal on it.",
    "A worker bee lives for six weeks in summer. In winter she lives for several months. She forages at the end.",
    "Glass forms when a melt cools too fast to crystallise. Soda-lime glass is the most common kind.",
]


def report(result: CompressedText) -> None:
    print("compressed:", result.stats)


@compress_context(context="documents", tokens=25, on_compressed=report)
def ask(question: str, documents: list[str]) -> str:
    """Stands for a call of a model: it answers with the prompt that it got."""
    return "\n\n".join([*documents, f"Question: {question}"])


@compress_context(messages="messages", keep=0.4, on_compressed=report)
def chat(messages: list[dict[str, str]]) -> str:
    """Around `client.chat.completions.create` it is the same; see README."""
    return messages[-1]["content"]


if __name__ == "__main__":
    question = "How long does a worker bee live in winter?"
    print(ask(question, DOCUMENTS), end="\n\n")
    print(ask(question, DOCUMENTS, ctxcomp_budget=60), end="\n\n")  # for this call only
    sources = "\n".join(f"[{number}] {text}" for number, text in enumerate(DOCUMENTS, start=1))
    print(chat([{"role": "user", "content": f"Sources:\n{sources}\n\nQuestion: {question}"}]))
