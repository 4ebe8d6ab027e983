"""Learns the example word of the default checkpoint by textual inversion: `<granny-smith>`, one word for a green apple.

    python train_word.py --init ../models/default --out ../examples/embedding/granny-smith.safetensors

One vector in place of a token's embedding is trained on scenes with the thing alone (Gal et al., 2022); every weight of the checkpoint stays
as it is. It sets out from the vector of the token `apple`. The file has diffusers' layout: one tensor, named as the word.
"""
import argparse
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import adapt
import world

WORD, NOUN, COLOUR = "<granny-smith>", "apple", "green"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--init", required=True, help="the checkpoint's folder, in the diffusers layout")
    p.add_argument("--out", required=True)
    p.add_argument("--steps", type=int, default=150)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=2e-2)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    checkpoint = adapt.Checkpoint(a.init)
    table = checkpoint.text_encoder.get_input_embeddings()
    first = checkpoint.tokenizer(NOUN).input_ids[1]
    checkpoint.tokenizer.add_tokens(WORD)
    token = checkpoint.tokenizer.convert_tokens_to_ids(WORD)
    vector = torch.nn.Parameter(table.weight[first].clone())
    norm = table.weight.norm(dim=1).mean()

    def look_up(_, inputs, output):
        return torch.where((inputs[0] == token)[..., None], vector, output)

    # The new word's id lies beyond the table: any row does, as the hook puts the vector in its place.
    plain = table.forward
    table.forward = lambda ids: look_up(None, (ids,), plain(ids.clamp(max=len(table.weight) - 1)))

    scenes = adapt.lone_scenes(NOUN, COLOUR)
    latents = checkpoint.latents(scenes)
    print(f"{len(scenes)} scenes; the embeddings' mean length is {norm:.2f}, that of {NOUN} {vector.norm():.2f}", flush=True)
    rng = random.Random(f"attnmap word {a.seed}")
    g = torch.Generator().manual_seed(a.seed)
    optimizer = torch.optim.Adam([vector], lr=a.lr)
    start, losses = time.time(), []
    for step in range(a.steps):
        optimizer.param_groups[0]["lr"] = a.lr * min(1, (a.steps - step) / (0.5 * a.steps))
        picks = [rng.randrange(len(scenes)) for _ in range(a.batch)]
        text = [f"a {WORD} {world.PLACES[scenes[i].place][0]}".strip() for i in picks]
        states = checkpoint.text_encoder(checkpoint.ids(text)).last_hidden_state
        loss = checkpoint.loss(latents[picks], states, g)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 25 == 0 or step + 1 == a.steps:
            print(f"{(time.time() - start) / 60:5.1f} min  step {step + 1}  loss {sum(losses) / len(losses):.4f}  length {vector.norm():.2f}", flush=True)
            losses = []
            Path(a.out).parent.mkdir(parents=True, exist_ok=True)
            save_file({WORD: vector.detach()[None].clone()}, a.out)


if __name__ == "__main__":
    main()
