//! Whether a look mattered: ablation, counterfactuals, faithfulness, accuracy against masks.
