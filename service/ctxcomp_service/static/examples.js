/** What a first visit shows: passages as a retriever might return them, and a question for each set. */

export const EXAMPLES = [
  {
    name: "Lighthouses",
    query: "Why was a glass lens better than a mirror?",
    split: "rules",
    text: `The first lighthouses burned wood or coal on an open platform. Keepers hauled tons of fuel up the stairs each winter, and in fog the fire was hardly seen from the harbour. Oil lamps replaced the fires in the course of the eighteenth century. They burned steadily, but a single flame was weak.

---

Augustin Fresnel, a French engineer and physicist, designed the stepped lens that carries his name while he served on the commission for lighthouses. The first one was lit at Cordouan, at the mouth of the Gironde, in July 1823. Fresnel was in poor health for most of his life. He died of tuberculosis four years later, aged 39.

---

Polished mirrors absorbed about half of the light that fell on them, and they tarnished within weeks in salt air. A ring of glass prisms, in contrast, bends nearly all of the light into one flat beam. With the same lamp a stepped lens could be seen from more than twenty miles away. It also needed much less glass than a solid lens of the same width.

---

The tower at Cordouan was finished in 1611 and is the oldest lighthouse in France still in use. It has a chapel on the second floor and a royal apartment where no king ever slept. Visitors reach it by boat from Royan. The stairs count 301 steps.

---

Lenses were built in orders, from the first, taller than a man, to the sixth, which fits on a table. The order is set by the distance between the flame and the glass. Harbour lights took the small sizes; coasts and capes took the large ones. A first-order lens could weigh several tons and floated on a bath of mercury so that a finger could turn it.

---

Most lights have been automatic since the 1990s. A small electric lamp and a sensor do what three keepers did. Many towers are now museums, guest houses or private homes. The old lenses are often kept on show, as new ones of plastic cost a fraction of their upkeep.`,
  },
  {
    name: "A shop's handbook",
    query: "Who pays for the parcel when something is returned?",
    split: "rules",
    text: `# Returns

Goods may be returned within 30 days of delivery. The customer needs the order number, not the paper receipt. Refunds go to the card that was charged and take up to five working days.

---

# Opened goods

Food and filters cannot be returned once the seal is broken. Machines may be opened and tried at home: we take them back if they are clean and complete. If water was run through a machine, we deduct 15 % of the price for servicing.

---

# Parcels

We ship on weekdays until 15:00. Parcels over 20 kg go by freight and need an appointment. For a return the customer pays the parcel, unless the goods were faulty or we sent the wrong ones; then we e-mail a prepaid label.

---

# Repairs

Machines carry a warranty of two years. Scale is not a fault: descaling is the customer's task and is described in the manual. Repairs take ten working days on average. We lend a machine if it takes longer than three weeks.

---

# Points

Members collect one point for each euro. A hundred points are worth a voucher of two euros. Points expire after two years without a purchase.

---

# Opening hours

The shop is open from Tuesday to Saturday, 10:00 to 18:30. Tastings are on the first Thursday of the month. On the eve of public holidays we close at 14:00.`,
  },
  {
    name: "A runbook, with code and a list",
    query: "How do I roll back a release that failed?",
    split: "rules",
    text: `## Releasing

Releases go out on Tuesdays and Thursdays. The build must be green and the change log must be written. One person releases, a second one watches the dashboards.

\`\`\`sh
deploy --to production --tag v$VERSION
\`\`\`

---

## When a release fails

Do not try to repair forward. Put the last good tag back first and look for the cause later:

\`\`\`sh
deploy --to production --tag "$(deploy --list | sed -n 2p)"
\`\`\`

Then tell the channel, and open an incident. A database migration is never undone by this: it has to stay compatible with the tag before it.

---

## Dashboards

| panel | healthy | call someone |
|---|---|---|
| errors | < 0.1 % | > 1 % for 5 min |
| p99 latency | < 300 ms | > 1 s for 5 min |
| queue | < 100 | > 5,000 |

---

## On call

- The rota changes on Mondays at 10:00.
- Swap shifts in the calendar, not in the chat.
- After a night call you start at noon.

---

## Secrets

Keys live in the vault, never in the repository. They are rotated every quarter. To read one you need a reason, and the vault records it.`,
  },
];
