#!/bin/sh
# Trains the model in artifacts/model again: simulates a fleet, trains on 51 of its 64 machines, measures on the other 13.
# The same versions of simulator, xgboost and numpy give the same booster, bit for bit. Takes some ten minutes on two cores.
#
#   scripts/train_shipped_model.sh [DIRECTORY]      (default: artifacts/model)
#
# Set PYTHON to the interpreter of an environment with `pip install '.[all]'`.
set -eu
cd "$(dirname "$0")/.."
out=${1:-artifacts/model}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Fifty days of 64 machines, a reading every two minutes: 457 machine-weeks with some 370 episodes. No other seed tells this story.
"$python" -m sensor_simulator --machines 64 --seconds 4320000 --rate 0.0083333333333333 --seed 20260105 \
    --out "$work/telemetry.csv" --episodes "$work/episodes.jsonl"

# The limits reject what a sensor cannot have measured, not what is unusual. Velocity, current, load and speed come from unsigned
# 16-bit registers of hundredths, 0 to 655.35. Temperature: from the coldest that vibration sensors are specified for to the limit of
# class F insulation (IEC 60085), beyond which there is no motor left to watch.
# The past is computed from all readings; of these one in ten minutes trains, since neighbours say the same.
"$python" -m ml_inference train --data "$work/telemetry.csv" --label wCylinderStatus \
    --features rVibration_Temp,rVibration_Z_RMS_Velocity,rVibration_X_RMS_Velocity,wRMSCurrent,wCurrentLoad,wEncoderVelocity \
    --group equipment_id --time timestamp --episodes "$work/episodes.jsonl" \
    --horizon 8h --history 10min,1h,24h --running "wRMSCurrent > 20" --withholdable all --every 10min --false-alarms 0.15 \
    --limit rVibration_Temp=-40:155 \
    --limit rVibration_Z_RMS_Velocity=0:655.35 \
    --limit rVibration_X_RMS_Velocity=0:655.35 \
    --limit wRMSCurrent=0:655.35 \
    --limit wCurrentLoad=0:655.35 \
    --limit wEncoderVelocity=0:655.35 \
    --max-trees 150 --max-depth 5 --seed 1 --name cylinder-anomaly --version 2.0.0 \
    --out "$out" --report "${REPORT:-$work/report.html}"
