"""An index of `llmkit search build` handed over to a vector store: Qdrant, in a folder of its own or on a server.

    pip install qdrant-client
    llmkit search build runs/embed-sentences texts.jsonl --out index
    python examples/vector_store.py index qdrant-data "words to look for"
    python examples/vector_store.py index http://localhost:6333 "words to look for"

Vectors, ids and texts go over as they are; what stays here is the model, which turns each question into a vector. Another
store (pgvector, Milvus, OpenSearch, FAISS) takes the same three: `numpy.load("index/vectors.npy")`, and the lines of
`index/texts.jsonl` in the same order. The vectors are of length one, so that the dot product is the cosine.
"""

from __future__ import annotations

import sys
from typing import Any

from qdrant_client import QdrantClient, models

from llmkit import console, search


def hand_over(index: search.Index, client: Any, name: str) -> None:
    """A collection with every vector of the index; its points are numbered in the index's order."""
    space = models.VectorParams(size=index.vectors.shape[1], distance=models.Distance.DOT)
    client.create_collection(name, vectors_config=space)
    payload = ({"id": i, "text": text} for i, text in zip(index.ids, index.texts, strict=True))
    client.upload_collection(name, vectors=index.vectors, payload=payload, ids=range(len(index.ids)))


def main() -> None:
    console.hush()
    folder, where, words = sys.argv[1:]
    index = search.load(folder)
    client = QdrantClient(url=where) if where.startswith("http") else QdrantClient(path=where)
    if not client.collection_exists("texts"):
        hand_over(index, client, "texts")
    vector = index.model.embed(words).tolist()
    for point in client.query_points("texts", query=vector, limit=10).points:
        print(f"{point.score:.4f}\t{point.payload['id']}\t{point.payload['text']}")
    client.close()


if __name__ == "__main__":
    main()
