#!/bin/sh
# Writes the sounds of this folder: a tone of 440 Hz at half of full scale for a quarter second.
# Run by a person: FFMPEG=ffmpeg sh make.sh
set -e
FF="${FFMPEG:-ffmpeg} -hide_banner -loglevel error -y -fflags +bitexact"
TONE="aevalsrc=0.5*sin(2*PI*440*t):d=0.25"
make() { # name, source rate, options
    name=$1 rate=$2
    shift 2
    $FF -f lavfi -i "$TONE:s=$rate" -flags +bitexact -map_metadata -1 "$@" "$name"
}
make u8.wav 8000 -c:a pcm_u8
make s16.wav 16000 -c:a pcm_s16le
make s24.wav 11025 -c:a pcm_s24le
make s32.wav 8000 -c:a pcm_s32le
make f32.wav 16000 -c:a pcm_f32le
make f64.wav 8000 -c:a pcm_f64le
make alaw.wav 8000 -c:a pcm_alaw
make mulaw.wav 8000 -c:a pcm_mulaw
make ima.wav 8000 -c:a adpcm_ima_wav
make ms.wav 8000 -c:a adpcm_ms
make six.wav 8000 -c:a pcm_s16le -af "pan=5.1|c0=c0|c1=c0|c2=c0|c3=c0|c4=c0|c5=c0"
make stereo.flac 44100 -c:a flac -af "pan=stereo|c0=c0|c1=c0"
make mono.mp3 22050 -c:a libmp3lame -b:a 32k -write_xing 1
make mono.ogg 16000 -c:a libvorbis -q:a 1
make mono.m4a 16000 -c:a aac -b:a 32k
make mono.aac 16000 -c:a aac -b:a 32k
make alac.m4a 16000 -c:a alac
make mono.aiff 8000 -c:a pcm_s16be
make mono.caf 8000 -c:a pcm_s16be
make mono.mka 16000 -c:a flac
make mono.webm 16000 -c:a libvorbis -q:a 1
make mono.opus 16000 -c:a libopus -b:a 16k
