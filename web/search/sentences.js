/** What can be searched at first: plain sentences of a few subjects. */
export const SENTENCES = `
A pinch of salt makes the dough taste less flat.
Simmer the lentils until they are soft, then add lemon juice.
The oven should be hot before the loaf goes in.
Leftover rice fries better than rice that was just cooked.
She seasons soup with thyme and a bay leaf.
Ripe tomatoes need nothing but olive oil.
Whisk the egg whites until they hold stiff peaks.
Coffee goes bitter when the water is too hot.
The pancakes stick because the pan is not warm enough.
He keeps his knives sharp with a whetstone.
Dark clouds are piling up behind the hills.
It has not rained here for seven weeks.
The first frost killed the geraniums overnight.
A warm wind from the south melted all the snow.
Thunder rolled across the valley until dawn.
Fog closed the harbour for most of the morning.
The river rose two metres after the storm.
Hail the size of marbles dented our car.
Autumn came early to the north this year.
The heat makes the asphalt soft under your shoes.
My laptop takes ten minutes to start.
The printer refuses to talk to the new router.
She restored the lost photos from last week's backup.
A strong passphrase is long and easy to remember.
The update broke the sound on half of our machines.
His phone battery dies before lunch.
They moved all their servers to another data centre.
Close some browser tabs and the fan will calm down.
The programmer found the bug in a line nobody had read for years.
Spam filters learn from the messages you mark.
The marathon winner collapsed just past the finish line.
Our goalkeeper saved two penalties in extra time.
She swims a kilometre before breakfast every day.
The home side lost by a single point.
He sprained his ankle on the tennis court.
Climbers reached the summit without bottled oxygen.
The referee sent the captain off after an hour.
Rowing trains the back as much as the arms.
The young skater landed a jump no one had tried before.
Cyclists saved their strength for the last mountain.
The orchestra tuned to the oboe.
He learned the guitar by playing along with old records.
The choir sang so softly that people held their breath.
Her new album mixes folk tunes with electronic beats.
The pianist forgot the second page and improvised.
A cracked reed ruined the clarinet solo.
Drummers need a good sense of time and patient neighbours.
The opera ended long after midnight.
Children banged on pots as if they were a band.
The violin was built three hundred years ago.
The telescope showed the rings of Saturn clearly.
A comet returns to our skies every seventy-six years.
Astronauts lose bone mass while they float in orbit.
The probe sent its last pictures from beyond Neptune.
Two black holes merged and shook space itself.
The eclipse turned noon into twilight.
Dust storms on Mars can hide the whole planet.
Rockets burn most of their fuel in the first minutes.
The Moon slows the turning of the Earth a little.
New stars are born in cold clouds of gas.
The bank raised its interest rate again.
He paid off the mortgage five years early.
Small investors fled when share prices fell.
Her pension depends on how the funds perform.
The invoice was due at the end of May.
They split the rent by the size of the rooms.
Inflation eats the savings of those who keep cash.
The shop gives back your money within a month.
A budget helped them see where their wages went.
The company went bankrupt owing millions.
Our train was cancelled and the next one was full.
The border guard stamped my passport without a glance.
They hitchhiked along the coast for three weeks.
The hotel had lost our booking.
From the ferry you can see both islands.
Pack light, because the old town is all stairs.
She missed her connecting flight in Frankfurt.
The night bus is cheaper but nobody sleeps.
Locals told us where tourists never go.
We pitched the tent beside a mountain lake.
The cat brought a mouse to the kitchen door.
Wolves have come back to the eastern forests.
An octopus can open a jar from the inside.
The puppy chewed through another pair of slippers.
Swallows leave for Africa in September.
Bees dance to tell each other where flowers are.
The old horse still knows its way home.
Elephants mourn their dead for days.
A heron stood motionless in the reeds.
The vet says the rabbit needs more hay.
Water tomato plants at the root, not on the leaves.
Slugs ate all the lettuce in one night.
Prune the apple tree while it is dormant.
Coffee grounds make decent compost.
The roses bloom twice if you cut them in time.
Weeds grow between the stones of the path.
She grows herbs on a narrow balcony.
Tulip bulbs go into the ground in autumn.
The hedge needs trimming before birds start to nest.
Moss likes shade and soil that never dries.
The doctor told him to sleep more and smoke less.
A high fever kept her in bed for a week.
The nurse changed the bandage twice a day.
Stretching eased the pain in his lower back.
The vaccine protects for about ten years.
She is allergic to nuts and carries a syringe.
His blood pressure fell once he began to walk to work.
The dentist filled two cavities.
Wash your hands before you touch the wound.
Too much screen light at night keeps you awake.
The tap in the bathroom drips all night.
Sand the boards before you paint them.
A fuse blew when we plugged in the heater.
The door sticks whenever the weather is damp.
They insulated the roof and halved the heating bill.
Measure the shelf twice and saw it once.
The neighbours knocked down a wall to get a larger kitchen.
Put a bucket under the leak until the plumber comes.
The key broke off in the lock.
Old windows let in the cold from the street.
`
  .trim()
  .split("\n");

/** Queries that share hardly a word with what they should find. */
export const QUERIES = [
  "my computer is slow",
  "what to wear in winter",
  "saving for old age",
  "a sick pet",
  "repairs at home",
  "life in the universe",
];
