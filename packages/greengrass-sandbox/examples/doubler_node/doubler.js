// The doubler in Node, with the official SDK: answers each number on demo/number with its double on demo/double.
'use strict';

const { greengrasscoreipc } = require('aws-iot-device-sdk-v2');

async function main() {
  const client = greengrasscoreipc.createClient();
  await client.connect();
  const subscription = client.subscribeToTopic({ topic: 'demo/number' });
  subscription.on('message', async (event) => {
    const { number } = JSON.parse(Buffer.from(event.binaryMessage.message).toString());
    const message = Buffer.from(JSON.stringify({ double: 2 * number }));
    await client.publishToTopic({ topic: 'demo/double', publishMessage: { binaryMessage: { message } } });
  });
  await subscription.activate();
  setInterval(() => {}, 1 << 30); // the subscription alone does not keep the process
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
