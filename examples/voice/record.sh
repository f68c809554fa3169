#!/bin/sh
# Records a live conversation for the README: `examples/voice/record.sh OUT.svg`.
# A sound server of its own has a microphone to which held-out commands are played, and a speaker;
# `culet voice` hears and answers through real devices, and terminal.py records what it shows.
# Needs: pulseaudio, pulseaudio-utils, libasound2-plugins, espeak-ng, ffmpeg, python3; culet in PATH
# or in CULET.
set -eu
out="$(realpath "${1:?file to write}")"
root="$(realpath "$(dirname "$0")/../..")"
room="$(mktemp -d)"
ln -s "$root/models" "$room/models"
cd "$room"
export PULSE_SERVER="unix:$room/socket" PULSE_RUNTIME_PATH="$room" PULSE_STATE_PATH="$room"
export HOME="$room" XDG_RUNTIME_DIR="$room" ALSA_CONFIG_PATH="$room/asound.conf"
cat > "$ALSA_CONFIG_PATH" <<'END'
</usr/share/alsa/alsa.conf>
pcm.!default { type pulse }
ctl.!default { type pulse }
END
cat > get_time <<'END'
#!/usr/bin/env python3
# The time of day in a city of Europe, for the tool `get_time`.
import datetime, json, sys, zoneinfo
zone = zoneinfo.ZoneInfo("Europe/" + json.load(sys.stdin).get("city", "London"))
print(json.dumps({"value": datetime.datetime.now(zone).strftime("%H:%M")}))
END
printf '#!/bin/sh\necho "{\\"value\\": \\"ok\\"}"\n' > set_light
chmod +x get_time set_light
pulseaudio -n --daemonize=no --use-pid-file=no --exit-idle-time=-1 --disable-shm \
    -L "module-native-protocol-unix socket=$room/socket auth-anonymous=1" \
    -L "module-null-sink sink_name=vmic rate=48000 channels=1" \
    -L "module-null-sink sink_name=speaker rate=48000 channels=2" \
    -L "module-remap-source source_name=mic master=vmic.monitor" 2> log &
server=$!
trap 'kill $server; rm -rf "$room"' EXIT
until pactl set-default-source mic 2> /dev/null; do sleep 0.2; done
pactl set-default-sink speaker
(
    sleep 4
    for name in seen07 seen19 seen25; do
        ffmpeg -v error -i "models/tiny/heldout/sounds/$name.flac" -f s16le -ac 1 -ar 16000 - > said
        head -c 128000 /dev/zero >> said
        pacat --playback --device=vmic --rate=16000 --channels=1 --format=s16le said
    done
) &
python3 "$root/examples/voice/terminal.py" "$out" 30 "${CULET:-culet}" voice --greedy \
    --tools models/tiny/tools.json --tool set_light=./set_light --tool get_time=./get_time
