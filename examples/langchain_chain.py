"""A LangChain chain over this project's own documents: retrieve, compress, prompt.

To run offline, the vector store is over counts of words, and the chain ends with the prompt that a model would get.
"""

from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from ctxcomp.integrations.langchain import CompressContext

QUESTION = "How is it guaranteed that the result never exceeds the token budget?"
ROOT = Path(__file__).parent.parent
PROMPT = PromptTemplate.from_template("Answer from the context.\n\n{context}\n\nQuestion: {question}")


class WordCounts(Embeddings):
    """Counts of words, in 512 buckets."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector for each text."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        buckets = [sum(word.encode()) % 512 for word in text.lower().split()]
        return [float(buckets.count(i)) for i in range(512)]


def main() -> None:
    store = InMemoryVectorStore(WordCounts())
    for name in ("README.md", "CHANGELOG.md", "ctxcomp/weights/MODEL_CARD.md"):
        sections = (ROOT / name).read_text(encoding="utf-8").split("\n\n")
        store.add_documents([Document(page_content=text, metadata={"file": name}) for text in sections if text.strip()])

    compress = CompressContext(budget={"tokens": 120})
    given = {"context": store.as_retriever(search_kwargs={"k": 20}), "question": RunnablePassthrough()} | compress
    print((given | PROMPT | RunnableLambda(lambda prompt: prompt.to_string())).invoke(QUESTION))
    stats = given.invoke(QUESTION)["ctxcomp"]["stats"]
    print(f"\n--- context {stats['tokens_in']} -> {stats['tokens_out']} tokens, {stats['method']}, {stats['counter']}")


if __name__ == "__main__":
    main()
