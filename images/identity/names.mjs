// Where this provider may run: it is no production service, and must not be reachable under a name that is one.
import net from 'node:net';

const NAMES = ['test', 'localhost', 'internal', 'local'];
const PRIVATE = new net.BlockList();
for (const [address, prefix, family] of [['10.0.0.0', 8, 'ipv4'], ['172.16.0.0', 12, 'ipv4'], ['192.168.0.0', 16, 'ipv4'], ['127.0.0.0', 8, 'ipv4'],
  ['169.254.0.0', 16, 'ipv4'], ['::1', 128, 'ipv6'], ['fc00::', 7, 'ipv6'], ['fe80::', 10, 'ipv6']]) PRIVATE.addSubnet(address, prefix, family);

function allowed(host) {
  const family = net.isIP(host);
  if (family) return PRIVATE.check(host, family === 4 ? 'ipv4' : 'ipv6');
  const labels = host.toLowerCase().replace(/\.$/, '').split('.');
  return labels.length === 1 || NAMES.includes(labels.at(-1));
}

// Why an issuer is refused, or undefined.
export function refusal(issuer) {
  let url;
  try {
    url = new URL(issuer);
  } catch {
    return `ISSUER: ${issuer} is no address; it is https://NAME:PORT`;
  }
  const host = url.hostname.replace(/^\[|\]$/g, '');
  if (url.protocol !== 'https:') return `ISSUER: ${issuer} must begin with https://`;
  if (allowed(host)) return undefined;
  return `ISSUER: ${host} is a public name, and this provider is for laptops and tests only; use a name without a dot or below .test, .internal or .local, `
    + 'or the OpenID provider of your institute';
}
