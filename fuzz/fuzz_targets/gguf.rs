//! Model files: header, metadata, tensors, and the vocabulary, which is then used.
//! In: bytes of a file. Out: nothing; an error is as good as a model.
#![no_main]

use culet_fuzz::gguf::Gguf;
use culet_fuzz::gguf::Mapping;
use culet_fuzz::quiet;
use culet_fuzz::text::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quiet(), |bytes: &[u8]| {
    let Ok(map) = Mapping::from_bytes("file", bytes) else { return };
    let Ok(file) = Gguf::from_mapping(map) else { return };
    for (_, value) in file.metadata() {
        let numbers = value.array().and_then(|array| Some(array.numbers()?.count()));
        let texts = value.array().and_then(|array| Some(array.texts()?.count()));
        assert!(numbers.is_none() || texts.is_none());
        let _ = (value.integer(), value.float(), value.truth(), value.text());
    }
    for info in file.tensors() {
        assert_eq!(file.tensor_bytes(info).len(), info.range().len());
    }
    let _ = file.fingerprint();
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file)
        && let Ok(ids) = tokenizer.encode("Hello, world! 12 <end> \u{1f600}\n")
    {
        let _ = tokenizer.decode(&ids);
    }
});
