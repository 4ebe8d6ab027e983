"""One run of diffusers, with or without DAAM's maps: load, sample, decode, and a JSON line of timings."""

import argparse
import json
import time

start = time.perf_counter()

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("prompt")
parser.add_argument("--steps", type=int)
parser.add_argument("--size", type=int)
parser.add_argument("--threads", type=int)
parser.add_argument("--daam", action="store_true")
parser.add_argument("--dtype", default="float32")
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)

tokenizer = CLIPTokenizer.from_pretrained(arguments.model, subfolder="tokenizer")
dtype = getattr(torch, arguments.dtype)
pipeline = StableDiffusionPipeline.from_pretrained(
    arguments.model, tokenizer=tokenizer, safety_checker=None, feature_extractor=None, torch_dtype=dtype
)
pipeline.set_progress_bar_config(disable=True)
loaded = time.perf_counter()
marks = []
settings = dict(
    num_inference_steps=arguments.steps,
    height=arguments.size,
    width=arguments.size,
    generator=torch.Generator().manual_seed(1),
    callback_on_step_end=lambda pipeline, index, timestep, values: marks.append(time.perf_counter()) or values,
)
with torch.no_grad():
    if arguments.daam:
        from daam import trace

        with trace(pipeline) as tracer:
            pipeline(arguments.prompt, **settings)
            heat = tracer.compute_global_heat_map()
        for word in dict.fromkeys(arguments.prompt.split()):
            try:
                heat.compute_word_heat_map(word)
            except ValueError:
                pass
    else:
        pipeline(arguments.prompt, **settings)
end = time.perf_counter()
steps = [b - a for a, b in zip(marks, marks[1:])]
print(json.dumps(dict(load=loaded - start, work=end - loaded, step=sorted(steps)[len(steps) // 2] if steps else None,
                      after=end - marks[-1])))
