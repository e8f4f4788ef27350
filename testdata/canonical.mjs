// Answers every line of stdin, the base64 of an input, with the base64 of
// JSON.stringify(JSON.parse(input)) or with "!" where JSON.parse throws or the input is not UTF-8.
import { readFileSync } from 'node:fs'

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const answers = readFileSync(0, 'latin1').split('\n').slice(0, -1).map((line) => {
  try {
    const text = decoder.decode(Buffer.from(line, 'base64'))
    return Buffer.from(JSON.stringify(JSON.parse(text))).toString('base64')
  } catch {
    return '!'
  }
})
process.stdout.write(answers.join('\n') + '\n')
