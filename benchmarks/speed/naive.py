"""The component that a first attempt looks like: all of it in the callback, a pandas table, scikit-learn's interface.

    python naive.py TOPIC ANSWER BOOSTER

It uses the SDK's second client and waits for each answer, as its examples do.
"""

import json
import sys
import threading
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import xgboost
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage


def main() -> None:
    topic, answer, booster = sys.argv[1:]
    learner = xgboost.XGBClassifier()
    learner.load_model(booster)
    names = learner.get_booster().feature_names
    ipc = GreengrassCoreIPCClientV2()

    def on_event(event: Any) -> None:
        reading = json.loads(event.binary_message.message)
        score = float(learner.predict_proba(pd.DataFrame([reading])[names])[0, 1])
        result = json.dumps(reading | {"score": score, "abnormal": score >= 0.5}).encode()
        ipc.publish_to_topic(topic=answer, publish_message=PublishMessage(binary_message=BinaryMessage(message=result)))

    ipc.subscribe_to_topic(topic=topic, on_stream_event=on_event)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
