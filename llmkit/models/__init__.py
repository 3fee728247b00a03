"""Models and tokenizers: real Transformers objects, by name, from scratch, with an adapter."""
