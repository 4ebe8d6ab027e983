//! The command line: one file a subcommand; turns flags into plain option structs, prints, shows progress.
