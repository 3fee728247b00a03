"""Models and tokenizers as Transformers objects. Importing this registers `lstm` with Transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from llmkit.models.lstm import LSTMConfig, LSTMForCausalLM

AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)
