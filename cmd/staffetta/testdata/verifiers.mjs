// An endpoint that verifies what it gets as receivers in the wild do, one half of which takes the
// bytes as they came and one half JSON.stringify(JSON.parse(body)). It prints its port on the first line and
// then a line of JSON for every request; a path with /flaky in it is answered 500 at the first attempt.
// The signing keys are the arguments.
import { createHmac, timingSafeEqual } from 'node:crypto'
import { createServer } from 'node:http'

const keys = process.argv.slice(2)

const same = (a, b) => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b))

// respond.io: the base64 HMAC-SHA256 of the body, under the text of the key.
const respondIO = (key, headers, body) =>
  same(createHmac('sha256', key).update(body).digest('base64'), headers['x-webhook-signature'] ?? '')

// Standard Webhooks: one of the list is v1 of id.timestamp.body, under the decoded key.
const standard = (key, headers, body) => {
  const id = headers['webhook-id']
  const timestamp = headers['webhook-timestamp']
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > 300) return false
  const expected = createHmac('sha256', Buffer.from(key, 'base64')).update(`${id}.${timestamp}.`).update(body).digest('base64')
  return (headers['webhook-signature'] ?? '').split(' ').some((entry) => {
    const [version, signature] = entry.split(',')
    return version === 'v1' && same(expected, signature ?? '')
  })
}

// The keys, by their places, under which the body verifies.
const verify = (headers, body) => ({
  respondIO: keys.flatMap((key, i) => (respondIO(key, headers, body) ? [i] : [])),
  standard: keys.flatMap((key, i) => (standard(key, headers, body) ? [i] : [])),
})

const server = createServer((request, response) => {
  const chunks = []
  request.on('data', (chunk) => chunks.push(chunk))
  request.on('end', () => {
    const raw = Buffer.concat(chunks)
    const attempt = Number(request.headers['staffetta-attempt'])
    const parsed = JSON.parse(raw.toString('utf8'))
    const again = JSON.stringify(parsed)
    console.log(JSON.stringify({
      path: request.url,
      attempt,
      id: request.headers['webhook-id'],
      eventID: parsed.event_id,
      signatures: (request.headers['webhook-signature'] ?? '').split(' ').length,
      body: raw.toString('base64'),
      raw: verify(request.headers, raw),
      restringified: verify(request.headers, again),
    }))
    response.statusCode = attempt === 1 && request.url.includes('/flaky') ? 500 : 200
    response.end('OK')
  })
})

process.stdin.resume()
process.stdin.on('end', () => process.exit(0)) // the test has ended
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
