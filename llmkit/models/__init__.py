"""Models and tokenizers: real Transformers objects, by name, from scratch, with an adapter.

Importing this makes `lstm`, llmkit's own architecture, known to Transformers' Auto classes.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from llmkit.models.lstm import LSTMConfig, LSTMForCausalLM

AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)
