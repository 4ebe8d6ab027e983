//! All integration tests, in one binary: one file per module.

mod advice;
mod agree;
mod attribution;
mod captions;
mod checkpoint;
mod cli;
mod components;
mod concepts;
mod data_sets;
mod evidence;
mod examples;
mod expect;
mod facts;
mod flux;
#[path = "../common/folder.rs"]
mod folder;
mod fuzz;
mod gallery;
mod goca;
mod heatmap;
mod helps;
#[cfg(feature = "hub")]
mod hub;
mod images;
mod inert;
mod interrupts;
mod lens;
mod lora;
mod memory;
mod messages;
mod metadata;
mod model;
mod model_shapes;
mod models;
mod odd;
mod options;
mod oracle;
mod outputs;
mod pictures;
mod pipeline;
mod probe;
#[path = "../common/program.rs"]
mod program;
mod prompt;
mod queries;
mod recorder;
mod render;
mod reopen;
mod report;
mod rooms;
mod run;
mod scheduler;
mod sd3;
mod sd3_files;
mod self_attention;
#[cfg(feature = "serve")]
mod serve;
mod single;
mod streams;
mod syntax;
mod tags;
mod trace;
mod traced;
mod view;
mod why;
mod wrong_model;
