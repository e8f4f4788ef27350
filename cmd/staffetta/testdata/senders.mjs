// Sends webhooks as a platform written in JavaScript does, signed with npm's standardwebhooks, and prints one
// JSON object: what each was answered with. Its arguments are the folder node_modules with the library, the URL
// and the signing key.
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'

const [modules, url, key] = process.argv.slice(2)
const { Webhook } = createRequire(join(resolve(modules), 'x.js'))('standardwebhooks')

const webhook = new Webhook(key)
const stranger = new Webhook('whsec_' + Buffer.alloc(32, 7).toString('base64'))
const body = '{"event_type":"message.received","contact":{"id":1},"text":"è"}'
const minutes = (n) => new Date(Date.now() + n * 60_000)

const send = async (id, { payload = body, sent = payload, at = new Date(), by = webhook, without } = {}) => {
  const headers = {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    'webhook-signature': by.sign(id, at, payload),
  }
  delete headers[without]
  const answer = await fetch(url, { method: 'POST', headers, body: sent })
  await answer.text()
  return answer.status
}

console.log(JSON.stringify({
  good: await send('msg_1'),
  repeated: await send('msg_1'),
  emoji: await send('msg_2', { payload: '{"text":"😀 \u2028"}' }),
  tampered: await send('msg_3', { sent: body.replace('1', '2') }),
  stale: await send('msg_4', { at: minutes(-6) }),
  future: await send('msg_5', { at: minutes(6) }),
  stranger: await send('msg_6', { by: stranger }),
  'no id': await send('msg_7', { without: 'webhook-id' }),
  'no time': await send('msg_8', { without: 'webhook-timestamp' }),
  'no signature': await send('msg_9', { without: 'webhook-signature' }),
}))
