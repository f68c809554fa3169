//! Conversations and tools as JSON, to prompts and back.
//! In: a JSON document: a conversation, or a list of them.
//! Out: nothing; an error is as good as a prompt.
#![no_main]

use culet_fuzz::quiet;
use culet_fuzz::text::Conversation;
use culet_fuzz::text::Prompt;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(init: quiet(), |bytes: &[u8]| {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    for value in value.as_array().into_iter().flatten().chain([&value]) {
        let Ok(conversation) = Conversation::from_json(value) else { continue };
        let _ = Prompt::render(&conversation);
        let again = Conversation::from_json(&conversation.to_json());
        assert!(again.is_ok_and(|again| again.to_json() == conversation.to_json()));
    }
});
