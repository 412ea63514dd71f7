"""A Keras model for the ttH demo: `model(idim)` gets the number of input columns and returns a compiled model."""

import keras


def model(idim: int) -> keras.Model:
    net = keras.Sequential(
        [
            keras.Input((idim,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    net.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"])
    return net
