//! All integration tests, in one binary: one file a module.

mod checkpoint;
mod cli;
mod evidence;
mod examples;
mod facts;
#[path = "../common/folder.rs"]
mod folder;
mod fuzz;
mod gallery;
mod heatmap;
mod hub;
mod images;
mod lora;
mod memory;
mod model;
mod model_shapes;
mod models;
mod odd;
mod options;
mod pictures;
mod pipeline;
mod probe;
mod prompt;
mod render;
mod reopen;
mod report;
mod rooms;
mod run;
mod scheduler;
mod single;
mod syntax;
mod ties;
mod trace;
mod view;
mod wrong_model;
