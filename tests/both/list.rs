//! The behaviours by name, and the tests that are made of them.
//!
//! In: the sides that play. Out: a module of tests for each module of behaviours.
//! Invariant: a behaviour that is not listed here is an unused function, which is a warning.

/// Makes a test of each behaviour, which the sides play one after the other.
macro_rules! behaviours {
    ($($side:ty),+) => {
        $crate::both::list::modules! { ($($side),+)
            chat {
                a_chat_goes_on_and_keeps_what_it_has,
                a_session_goes_back_to_an_earlier_message,
                a_stopped_call_can_be_repeated,
                a_tool_is_called_and_its_result_answered,
                an_answer_that_is_cut_ends_once,
                options_mean_the_same,
            }
            live {
                a_guess_that_holds_equals_the_end,
                a_guess_that_is_taken_back_leaves_no_trace,
                a_sound_can_be_dropped,
                long_sounds_are_segmented_not_cut,
                sound_in_any_packets_equals_the_whole,
            }
            media {
                a_picture_that_was_fed_is_not_fed_again,
                media_fill_named_places_or_join_the_turn,
                what_is_missing_is_told,
            }
            misuse {
                a_memory_limit_refuses_what_would_not_fit,
                misuse_says_what_to_do_and_loses_nothing,
                models_that_cannot_be_used_are_refused,
                options_out_of_range_are_refused,
            }
            snapshot {
                a_restored_session_goes_on_as_the_one_that_never_left,
                a_snapshot_of_something_else_is_refused_by_name,
                a_sound_that_was_heard_is_restored_with_its_turn,
                damaged_and_hostile_snapshots_change_nothing_and_break_nothing,
                what_was_appended_comes_along,
            }
            voice {
                a_cancelled_turn_is_forgotten_and_the_next_is_heard,
                a_phrase_wakes_it_and_an_answer_keeps_it_awake,
                a_picture_goes_in_before_the_question,
                a_spoken_question_calls_a_tool_and_is_answered,
                an_answer_is_told_in_pieces,
                keys_and_devices_are_told,
                what_is_overheard_can_be_cancelled_and_the_key_needs_no_phrase,
                what_was_not_heard_is_not_history,
            }
        }
    };
}

macro_rules! modules {
    ($sides:tt $($module:ident { $($name:ident,)+ })+) => {$(
        mod $module {
            use super::*;
            use $crate::both::scene::Scene;
            use $crate::both::scene::compare;

            $($crate::both::list::one! { $sides $module $name })+
        }
    )+};
}

macro_rules! one {
    (($($side:ty),+) $module:ident $name:ident) => {
        #[test]
        fn $name() {
            compare(&[$(Scene::<$side>::play($crate::both::$module::$name)),+]);
        }
    };
}

pub(crate) use behaviours;
pub(crate) use modules;
pub(crate) use one;
