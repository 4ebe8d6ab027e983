use super::*;
use crate::checkpoint::Part;
use crate::model::fixture::{CHECKPOINTS, Fixture, LAYOUTS};

#[test]
fn blocks_equal_diffusers() {
    for name in CHECKPOINTS {
        let fixture = Fixture::new(name);
        for layout in LAYOUTS {
            let vae = Vae::build(&fixture.checkpoint.vae, &fixture.builder(Part::Vae, layout)).unwrap();
            let check = |block: &str, forward: &dyn Fn(FeatureMap) -> Result<FeatureMap>| {
                let output = forward(fixture.grid(&format!("vae-block/{block}/in/0"), layout)).unwrap();
                fixture.assert_gives(&format!("vae-block/{block}/out/0"), &output.to_nchw().unwrap());
            };
            check("encoder.down_blocks.0", &|x| vae.encoder.down_blocks[0].forward(x));
            check("encoder.mid_block", &|x| vae.encoder.mid_block.forward(x));
            check("decoder.mid_block", &|x| vae.decoder.mid_block.forward(x));
            check("decoder.mid_block.attentions.0", &|x| vae.decoder.mid_block.attend(x));
            check("decoder.up_blocks.0", &|x| vae.decoder.up_blocks[0].forward(x));
        }
    }
}
