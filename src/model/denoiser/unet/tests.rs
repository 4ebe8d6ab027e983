use super::*;
use crate::checkpoint::Part;
use crate::model::Interrupt;
use crate::model::fixture::{CHECKPOINTS, Fixture, LAYOUTS};
use crate::trace::Unobserved;
use blocks::{DownBlock, UpBlock};

/// Calls `run` with a pass whose timestep embedding is `time` (before SiLU) and whose prompt is
/// `prompt`.
fn with_pass<T>(
    unet: &Unet,
    time: &Tensor,
    prompt: &Tensor,
    sample: (usize, usize),
    run: impl FnOnce(&mut Pass) -> Result<T>,
) -> T {
    let context = unet.prepare(&Conditioning::new(prompt.clone())).unwrap();
    let mut pass = Pass {
        time: &time.silu().unwrap(),
        prompt: &context.keys_values,
        key_bias: None,
        probes: &[],
        cross_sites: unet.sites(sample.0, sample.1),
        self_sites: unet.self_sites(sample.0, sample.1),
        observer: &mut Unobserved,
        interrupt: &Interrupt::default(),
    };
    run(&mut pass).unwrap()
}

#[test]
fn blocks_equal_diffusers() {
    for name in CHECKPOINTS {
        let fixture = Fixture::new(name);
        let time = fixture.get("unet-block/down_blocks.0/in/1");
        let prompt = fixture.get("unet-block/down_blocks.0/in/2");
        for layout in LAYOUTS {
            let unet =
                Unet::build(fixture.checkpoint.denoiser.unet().unwrap(), &fixture.builder(Part::Unet, layout)).unwrap();
            let last = unet.down_blocks.len() - 1;
            let grid = |name: &str| fixture.grid(&format!("unet-block/{name}"), layout);
            let gives = |name: &str, output: &FeatureMap| {
                fixture.assert_gives(&format!("unet-block/{name}"), &output.to_nchw().unwrap());
            };

            let embedding = unet.time_embedding.forward(321.0, None).unwrap();
            fixture.assert_gives("unet-block/time_embedding/out/0", &embedding);

            let down = |index: usize, block: &DownBlock| {
                let path = format!("down_blocks.{index}");
                let mut skips = Vec::new();
                let input = grid(&format!("{path}/in/0"));
                let output = with_pass(&unet, &time, &prompt, (5, 6), |pass| block.forward(input, &mut skips, pass));
                gives(&format!("{path}/out/0"), &output);
                for (index, skip) in skips.iter().enumerate() {
                    gives(&format!("{path}/out/{}", index + 1), skip);
                }
            };
            down(0, &unet.down_blocks[0]);
            down(last, &unet.down_blocks[last]);

            let input = grid("mid_block/in/0");
            let mid = unet.mid_block.as_ref().unwrap();
            gives("mid_block/out/0", &with_pass(&unet, &time, &prompt, (5, 6), |pass| mid.forward(input, pass)));

            // The inputs of an up block are x, the embedding, the skips (the last is taken first)
            // and perhaps the prompt.
            let up = |index: usize, block: &UpBlock, layers: usize, below: &str| {
                let path = format!("up_blocks.{index}");
                let mut skips = vec![grid(below)];
                skips.extend((0..layers).map(|layer| grid(&format!("{path}/in/{}", layer + 2))));
                let input = grid(&format!("{path}/in/0"));
                let output = with_pass(&unet, &time, &prompt, (5, 6), |pass| block.forward(input, &mut skips, pass));
                gives(&format!("{path}/out/0"), &output);
                assert_eq!(skips.len(), 1);
            };
            let layers = fixture.checkpoint.denoiser.unet().unwrap().layers_per_block[0] + 1;
            // Growing meets the skip below, whose size is that of what the block gave.
            up(0, &unet.up_blocks[0], layers, "up_blocks.0.upsamplers.0/out/0");
            up(last, &unet.up_blocks[last], layers, "down_blocks.0/in/0");
        }
    }
}
