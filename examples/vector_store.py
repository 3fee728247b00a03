"""Move an index of `llmkit search build` to a vector store: Qdrant, in a folder or on a server.

    pip install qdrant-client
    llmkit search build runs/embed-sentences texts.jsonl --out index
    python examples/vector_store.py index qdrant-data "words to look for"
    python examples/vector_store.py index http://localhost:6333 "words to look for"

The store takes the vectors, ids and texts unchanged; llmkit keeps the model, which embeds each query. Other stores
(pgvector, Milvus, OpenSearch, FAISS) take the same data: `numpy.load("index/vectors.npy")`, and the lines of
`index/texts.jsonl` in the same order. The vectors are normalized, so the dot product is the cosine.
"""

from __future__ import annotations

import sys

from qdrant_client import QdrantClient, models

from llmkit import search
from llmkit.log import quiet_libraries


def upload(index: search.Index, client: QdrantClient, name: str) -> None:
    """Create a collection with every vector of the index; its points are numbered in the order of the index."""
    space = models.VectorParams(size=index.vectors.shape[1], distance=models.Distance.DOT)
    client.create_collection(name, vectors_config=space)
    payload = ({"id": i, "text": text} for i, text in zip(index.ids, index.texts, strict=True))
    client.upload_collection(name, vectors=index.vectors, payload=payload, ids=range(len(index.ids)))


def main() -> None:
    quiet_libraries()
    folder, store, query = sys.argv[1:]
    index = search.load(folder)
    client = QdrantClient(url=store) if store.startswith("http") else QdrantClient(path=store)
    if not client.collection_exists("texts"):
        upload(index, client, "texts")
    vector = index.model.embed(query).tolist()
    for point in client.query_points("texts", query=vector, limit=10).points:
        print(f"{point.score:.4f}\t{point.payload['id']}\t{point.payload['text']}")
    client.close()


if __name__ == "__main__":
    main()
