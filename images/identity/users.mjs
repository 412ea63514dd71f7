// The users of a file: [{"name", "groups", "password": "scrypt$N$r$p$salt$key"}], salt and key in base64.
import { scrypt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

const derive = promisify(scrypt);
const FAILURE = 1000; // ms that a wrong password takes at least
const LONGEST = 1024; // characters of a password
const NOBODY = 'scrypt$16384$8$1$bm9ib2R5bm9ib2R5$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=';

async function matches(password, stored) {
  const [kind, cost, block, parallel, salt, key] = stored.split('$');
  if (kind !== 'scrypt') return false;
  const expected = Buffer.from(key, 'base64');
  const options = { N: Number(cost), r: Number(block), p: Number(parallel), maxmem: 256 * Number(cost) * Number(block) };
  return timingSafeEqual(expected, await derive(password, Buffer.from(salt, 'base64'), expected.length, options));
}

export class Users {
  constructor(list) {
    this.byName = new Map(list.map((user) => [user.name, user]));
  }

  groups(name) {
    return this.byName.get(name)?.groups;
  }

  account(name) {
    if (!this.byName.has(name)) return undefined;
    const claims = { sub: name, name, preferred_username: name, email: `${name}@users.invalid`, email_verified: true, 'wlcg.groups': this.groups(name) };
    return { accountId: name, claims: () => claims };
  }

  // Takes as long for a user that is not there as for a wrong password.
  async check(name, password) {
    const known = this.byName.get(String(name));
    const right = await matches(String(password ?? '').slice(0, LONGEST), known?.password ?? NOBODY);
    if (known && right) return true;
    await new Promise((resolve) => { setTimeout(resolve, FAILURE); });
    return false;
  }
}
