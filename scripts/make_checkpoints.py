#!/usr/bin/env python3
"""Writes the small checkpoints of tests/checkpoints.rs: random weights, saved by Hugging Face's own library, and its logits.

    pip install torch==2.15.0 transformers safetensors
    scripts/make_checkpoints.py tests/checkpoints

Each folder has config.json, model.safetensors (the large one's shards instead), expected.json with token ids, how many of each
sequence are there, labels, the logits and the cross-entropy, and its gradients in gradients.safetensors: computed in F64, but for
the RMS norms of Llama, which the library computes in F32. Kept small: they are part of the repository.
"""

import json
import pathlib
import sys

import safetensors.torch
import torch
import transformers

VOCABULARY, WIDTH, HIDDEN, POSITIONS = 40, 16, 24, 12
LENGTHS = [9, 4, 12]


def randomize(model):
    """Weights large enough that every layer matters, biases and norms that are not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 if parameter.dim() > 1 else parameter + 0.1 * noise)


def encoder(out, name, model):
    randomize(model)
    model.eval().float().save_pretrained(out / name)
    generator = torch.Generator().manual_seed(2)
    longest = max(LENGTHS)
    ids = torch.randint(1, VOCABULARY, (len(LENGTHS), longest), generator=generator)
    mask = torch.tensor([[int(i < length) for i in range(longest)] for length in LENGTHS])
    logits = model.double()(input_ids=ids * mask, attention_mask=mask).logits
    write(out / name, model, ids * mask, LENGTHS, logits)


def decoder(out, name, model, **saving):
    randomize(model)
    model.tie_weights()
    model.eval().float().save_pretrained(out / name, **saving)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (2, POSITIONS - 2), generator=generator)
    logits = model.double()(input_ids=ids).logits
    write(out / name, model, ids, [ids.shape[1]] * 2, logits)


def write(folder, model, ids, lengths, logits):
    (folder / "generation_config.json").unlink(missing_ok=True)
    logits = logits.flatten(0, -2)
    labels = torch.tensor([(7 * i + 1) % logits.shape[1] for i in range(len(logits))])
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    expected = {
        "ids": ids.tolist(), "lengths": lengths, "labels": labels.tolist(), "logits": logits.tolist(), "loss": loss.item(),
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    # Parameters that are shared are named once.
    gradients = {name: parameter.grad.float() for name, parameter in model.named_parameters()}
    safetensors.torch.save_file(gradients, folder / "gradients.safetensors")


def main():
    out = pathlib.Path(sys.argv[1])
    t = transformers
    bert = t.BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=HIDDEN,
        max_position_embeddings=POSITIONS, num_labels=3, attn_implementation="eager",
    )
    encoder(out, "bert", t.BertForSequenceClassification(bert))
    distilbert = t.DistilBertConfig(
        vocab_size=VOCABULARY, dim=WIDTH, n_layers=2, n_heads=4, hidden_dim=HIDDEN, max_position_embeddings=POSITIONS,
        num_labels=2, attn_implementation="eager",
    )
    encoder(out, "distilbert", t.DistilBertForSequenceClassification(distilbert))
    gpt2 = t.GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=POSITIONS, attn_implementation="eager",
    )
    decoder(out, "gpt2", t.GPT2LMHeadModel(gpt2))
    llama = t.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=HIDDEN, max_position_embeddings=POSITIONS, attn_implementation="eager",
    )
    decoder(out, "llama", t.LlamaForCausalLM(llama), max_shard_size="8KB")
    print(transformers.__version__, torch.__version__)


main()
