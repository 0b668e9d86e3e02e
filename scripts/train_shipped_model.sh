#!/bin/sh
# Trains the model in artifacts/model again: simulates a fleet, trains on 64 of its 80 machines, measures on the other 16.
# The same versions of simulator, xgboost and numpy give the same booster, bit for bit. Takes about half a minute on two cores.
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

# Three weeks of 80 machines, a reading every ten minutes.
"$python" -m sensor_simulator --machines 80 --seconds 1814400 --rate 0.0016666666666667 --seed 20260105 --out "$work/telemetry.csv"

# The limits reject what a sensor cannot have measured, not what is unusual. Velocity, current, load and speed come from unsigned
# 16-bit registers of hundredths, 0 to 655.35. Temperature: from the coldest that vibration sensors are specified for to the limit of
# class F insulation (IEC 60085), beyond which there is no motor left to watch.
"$python" -m ml_inference train --data "$work/telemetry.csv" --label wCylinderStatus \
    --features rVibration_Temp,rVibration_Z_RMS_Velocity,rVibration_X_RMS_Velocity,wRMSCurrent,wCurrentLoad,wEncoderVelocity \
    --group equipment_id --time timestamp \
    --limit rVibration_Temp=-40:155 \
    --limit rVibration_Z_RMS_Velocity=0:655.35 \
    --limit rVibration_X_RMS_Velocity=0:655.35 \
    --limit wRMSCurrent=0:655.35 \
    --limit wCurrentLoad=0:655.35 \
    --limit wEncoderVelocity=0:655.35 \
    --max-trees 150 --seed 1 --name cylinder-anomaly --version 1.0.0 \
    --out "$out" --report "${REPORT:-$work/report.html}"
