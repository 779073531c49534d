//! snippet/chatpulse.js ─► $OUT_DIR/chatpulse.js: the page snippet, minified.

use std::{env, error::Error, fs, path::PathBuf};

use oxc_allocator::Allocator;
use oxc_codegen::{Codegen, CodegenOptions};
use oxc_compat::EngineTargets;
use oxc_minifier::{CompressOptions, Minifier, MinifierOptions};
use oxc_parser::Parser;
use oxc_span::SourceType;

const SOURCE: &str = "snippet/chatpulse.js";
/// Where the producer puts the configuration.
const PLACE: &str = "__CHATPULSE__";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let source = fs::read_to_string(SOURCE)?;
    let allocator = Allocator::default();
    let mut parsed = Parser::new(&allocator, &source, SourceType::script()).parse();
    if let Some(problem) = parsed.diagnostics.first() {
        return Err(format!("{SOURCE}: {problem:?}").into());
    }
    // What older browsers do not know is written out in full.
    let compress = CompressOptions {
        target: EngineTargets::from_target("es2019")?,
        ..CompressOptions::smallest()
    };
    let options = MinifierOptions {
        compress: Some(compress),
        ..MinifierOptions::default()
    };
    let minified = Minifier::new(options).minify(&allocator, &mut parsed.program);
    let code = Codegen::new()
        .with_options(CodegenOptions::minify())
        .with_scoping(minified.scoping)
        .build(&parsed.program)
        .code;
    if code.matches(PLACE).count() != 1 {
        return Err(format!("{SOURCE}: {PLACE} must stand once in the minified script").into());
    }
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(folder.join("chatpulse.js"), code)?;
    Ok(())
}
