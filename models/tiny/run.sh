#!/bin/sh
# Trains the tiny model from nothing, or goes on from its checkpoints: one line a stage.
# Needs: Debian packages espeak-ng libflite1; PyPI packages torch transformers tokenizers gguf
# numpy scipy pillow soundfile jinja2. WORK (default work/) keeps data and checkpoints.
set -e
cd "$(dirname "$0")"
export TINY_WORK="${WORK:-work}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python="${PYTHON:-python3}"
stage="${1:?stage: tokenizer, speech, check, audio, text, vision, tune, joint, restore, heldout, export or score}"
shift
mkdir -p "$TINY_WORK"
case "$stage" in
tokenizer) $python -c "from synth import tokens; print(tokens.build('$TINY_WORK/tokenizer.json'))" ;;
speech)
    for i in 0 1 2 3 4 5 6 7 8 9; do
        [ -e "$TINY_WORK/tr$i.pkl" ] || $python -m synth.record "$TINY_WORK/tr$i.pkl" 1000 "10$i" train
    done
    $python -m synth.record "$TINY_WORK/seen.pkl" 150 5 seen
    $python -m synth.record "$TINY_WORK/unseen.pkl" 150 6 unseen
    ;;
check) $python -m train.check "$TINY_WORK/tokenizer.json" ;;
audio | text | vision | tune | joint) $python -m "train.$stage" "${@:-60}" ;;
restore) $python -m ship.restore culet-tiny-q4_0.gguf mmproj-culet-tiny-q8_0.gguf ;;
heldout) $python -m ship.heldout heldout ;;
export) $python -m ship.export . ;;
score) $python -m ship.evaluate heldout "$@" ;;
*) echo "no stage $stage" >&2; exit 2 ;;
esac
